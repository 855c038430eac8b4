"""What our trainers share: they evaluate with our evaluator and save only the adapter."""

from __future__ import annotations

from typing import Any

from adapters.training.evaluation.evaluator import Evaluator


class OwnEvaluation:
    """Methods in place of those of transformers' Trainer, which is the next class in the order of resolution."""

    #: The step of the checkpoint that the training goes on from.
    resumed_step = 0
    _evaluator: Evaluator | None = None
    args: Any
    callback_handler: Any
    control: Any
    log: Any
    model: Any
    state: Any

    def evaluate(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Evaluate, report the result to all callbacks, and stop the training when ``patience`` is used up.

        Called by Trainer after the step is logged and before its checkpoint is saved.
        """
        if self._evaluator is None:
            raise ValueError("This trainer has no evaluator; give it one.")
        evaluation, patience_used_up = self._evaluator(self.model, self.state.global_step)
        self.log({f"eval_{name}": value for name, value in evaluation.figures().items()})
        self.control.should_training_stop |= patience_used_up
        metrics = {"evaluation": evaluation}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save only the adapter, never embeddings: peft would ask the hub whether they changed."""
        out = output_dir or self.args.output_dir
        self.model.save_pretrained(
            out, state_dict=state_dict, selected_adapters=["default"], save_embedding_layers=False
        )

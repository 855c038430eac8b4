"""The training loop for pairs of answers: TRL's DPO with our token ids, our evaluation and our checkpoints.

Everything that depends on the internals of TRL is in this file (TRL 1.16; they change between minor versions). What
TRL would do otherwise than the rest of the trainer is replaced: it would render and cut the chats itself, keep the
adapter of a 4-bit base in bfloat16, write a model card into every checkpoint, and report to its makers that it runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Renderer
from adapters.training.data.preferences.pairs import PreferencePair
from adapters.training.evaluation.evaluator import Evaluator
from adapters.training.loop.arguments import evaluation_interval, loop_arguments
from adapters.training.loop.callback import StepTimer, StopOnNonFiniteGradient
from adapters.training.loop.own_evaluation import OwnEvaluation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own deprecations
    from trl import DPOConfig, DPOTrainer

#: TRL's frozen copy of the adapter that the training starts from.
REFERENCE_ADAPTER = "ref"


class PreferenceTrainer(OwnEvaluation, DPOTrainer):  # type: ignore[misc]
    """TRL's DPO loss, a mean over the pairs of the optimizer step, against a frozen copy of the starting adapter.

    Args:
        model: the PEFT model with the starting weights, also when a checkpoint is resumed.
        config: resolved by ``resolve_auto``.
        pairs: what it trains on.
        renderer: of the base; only its tokenizer's padding is used.
        evaluator: evaluates the model at the steps that ``config`` names; None evaluates never.
        callbacks: further callbacks, called in their order.
    """

    def __init__(
        self,
        *,
        model: Any,
        config: TrainingConfig,
        pairs: Sequence[PreferencePair],
        renderer: Renderer,
        evaluator: Evaluator | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        interval = evaluation_interval(config, len(pairs), evaluator)
        rows = [
            {"prompt_ids": list(p.prompt), "chosen_ids": list(p.chosen), "rejected_ids": list(p.rejected)}
            for p in pairs
        ]
        super().__init__(
            model=model,
            args=DPOConfig(
                **loop_arguments(config, model.device.type, interval),
                beta=config.beta,
                max_length=None,  # longer pairs are left out, never cut
                bf16=False,  # the model has the dtype of the configuration
            ),
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:1]),  # `evaluate` has its own; Trainer insists on a value
            processing_class=renderer.tokenizer,
            callbacks=[StepTimer(), *callbacks, StopOnNonFiniteGradient(self.log)],
        )
        for name, value in weights.items():
            model.get_parameter(name).data = value
        self._evaluator = evaluator
        self.remove_callback(PrinterCallback)

    def release_reference(self) -> None:
        """Remove the frozen copy, so that the model has only the trained adapter."""
        self.model.delete_adapter(REFERENCE_ADAPTER)

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """The rows have token ids already, with our masks."""
        return dataset

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """transformers' own: without TRL's model card."""
        Trainer._save_checkpoint(self, model, trial)

    def _send_telemetry(self) -> None:
        """Nothing leaves this machine."""

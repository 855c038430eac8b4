"""The training loop: transformers' Trainer with our samples, our loss and our evaluation.

Everything that depends on the internals of ``Trainer`` is in this file (transformers 5.19; they change between
minor versions).
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainingArguments

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import IGNORED, Sample
from adapters.training.data.collator import collate, pack
from adapters.training.data.sampler import LongestFirst
from adapters.training.evaluation.evaluator import Evaluator
from adapters.training.loop.callback import CheckpointManifest, StepTimer, StopOnNonFiniteGradient
from adapters.training.loop.checkpoint import find_checkpoint, step_of

# transformers' names of our optimizers.
_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}

logger = logging.getLogger("loragate.training")


class LoraTrainer(Trainer):
    """Trainer whose loss covers only the trained tokens and is a mean over the whole optimizer step.

    Args:
        model: the PEFT model.
        config: resolved by ``resolve_auto``.
        samples: what it trains on.
        pad_id: the padding token.
        evaluator: evaluates the model at the steps that ``config`` names; None evaluates never.
        callbacks: further callbacks, called in their order.
    """

    # transformers: our loss is already divided by the tokens of the whole accumulation window.
    loss_is_scaled_for_ga = True
    control: TrainerControl
    #: The step of the checkpoint that the training goes on from.
    resumed_step = 0

    def __init__(
        self,
        *,
        model: Any,
        config: TrainingConfig,
        samples: Sequence[Sample],
        pad_id: int,
        evaluator: Evaluator | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        super().__init__(
            model=model,
            args=_arguments(config, model.device.type, _evaluation_interval(config, samples, evaluator)),
            train_dataset=samples,
            eval_dataset=[],  # `evaluate` has its own turns; Trainer insists on a value
            data_collator=pack if config.packing == "on" else partial(collate, pad_id=pad_id),
            callbacks=[StepTimer(), *callbacks, StopOnNonFiniteGradient(self.log)],
        )
        self._config = config
        self._evaluator = evaluator
        self.remove_callback(PrinterCallback)  # the progress bar and log.jsonl show the same
        # transformers: makes it count the trained tokens of the window and pass them to compute_loss.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Summed loss of the trained tokens over the trained tokens of the whole step.

        The vocabulary projection runs only at positions that some row of the batch trains
        (``logits_to_keep`` of the model), which saves most of its time and nearly all of its memory.
        """
        targets = inputs["labels"][:, 1:]
        kept = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
        # NOTE: no attention mask and no cache; with either, packed samples would attend to one another.
        positions = {"position_ids": inputs["position_ids"]} if "position_ids" in inputs else {}
        outputs = model(input_ids=inputs["input_ids"], logits_to_keep=kept, use_cache=False, **positions)
        logits = outputs.logits.flatten(0, 1).float()
        total = cross_entropy(logits, targets[:, kept].flatten(), ignore_index=IGNORED, reduction="sum")
        tokens = num_items_in_batch if num_items_in_batch is not None else (targets != IGNORED).sum()
        loss = total / tokens
        if num_items_in_batch is not None:
            # Gradients are averaged over processes, while the token count is that of all of them.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

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

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """transformers' own sampler, or ``LongestFirst`` if samples of different lengths are padded."""
        config = self._config
        if config.packing == "on" or config.micro_batch_samples == 1:
            return super()._get_train_sampler(train_dataset)
        return LongestFirst(train_dataset or self.train_dataset, config.batch_samples, config.seed)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save only the adapter, never embeddings: peft would ask the hub whether they changed."""
        out = output_dir or self.args.output_dir
        self.model.save_pretrained(out, state_dict=state_dict, save_embedding_layers=False)


def run_loop(trainer: LoraTrainer, fingerprint: str) -> int:
    """Train to the end, from the newest complete checkpoint if there is one; returns the number of steps in all.

    Raises:
        CheckpointError: the newest complete checkpoint belongs to another configuration.
        DivergedError: a gradient was not finite.
    """
    checkpoint = find_checkpoint(Path(trainer.args.output_dir), fingerprint)
    trainer.resumed_step = step_of(checkpoint) if checkpoint else 0
    trainer.add_callback(CheckpointManifest(fingerprint))
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except BaseException:  # Trainer ends its callbacks at a normal end only; they close files
        try:
            trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
        except Exception:  # a tracker may raise anything, and must not hide the error that ended the training
            logger.exception("A callback failed after the training ended with an error.")
        raise
    return int(trainer.state.global_step)


def _evaluation_interval(
    config: TrainingConfig, samples: Sequence[Sample], evaluator: Evaluator | None
) -> int | None:
    """Steps between evaluations, None for no evaluation. Trainer always evaluates after the last step."""
    if evaluator is None:
        return None
    if config.evaluate_every == 0:
        return math.ceil(len(samples) / config.batch_samples)  # the steps of an epoch
    return config.evaluate_every if config.evaluate_every > 0 else sys.maxsize


def _arguments(config: TrainingConfig, device: str, evaluation_interval: int | None) -> TrainingArguments:
    checkpointing = config.checkpoint_every > 0
    return TrainingArguments(
        output_dir=str(config.out / "checkpoints"),
        per_device_train_batch_size=config.micro_batch_samples,
        gradient_accumulation_steps=config.accumulation // PartialState().num_processes,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_share,  # below 1 it is a share
        weight_decay=0.0,
        max_grad_norm=config.max_grad_norm,
        optim=_OPTIMIZERS[config.optimizer],
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # show NaN as NaN
        include_num_input_tokens_seen="all",
        eval_strategy="steps" if evaluation_interval else "no",
        eval_steps=evaluation_interval,
        save_strategy="steps" if checkpointing else "no",
        save_steps=config.checkpoint_every or 500,
        save_total_limit=max(config.keep_checkpoints, 2),
        report_to="none",  # trackers are passed as callbacks, with their folders and the offline mode
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
    )

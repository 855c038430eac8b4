"""The training loop: transformers' Trainer with our samples, our loss and our evaluation.

Everything that depends on the internals of ``Trainer`` is in this file (transformers 5.19; they change between
minor versions).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import IGNORED, Renderer, Sample
from adapters.training.data.collator import collate, pack, pack_shared
from adapters.training.data.prepared import PreparedData
from adapters.training.errors import MissingPackage
from adapters.training.evaluation.evaluator import Evaluator
from adapters.training.loop.arguments import evaluation_interval, loop_arguments
from adapters.training.loop.callback import CheckpointManifest, StepTimer, StopOnNonFiniteGradient
from adapters.training.loop.checkpoint import find_checkpoint, step_of
from adapters.training.loop.own_evaluation import OwnEvaluation
from adapters.training.loop.sampler import LongestFirst

logger = logging.getLogger("loragate.training")

_PACKED = {"on": pack, "prefix": pack_shared}


class LoraTrainer(OwnEvaluation, Trainer):
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
        interval = evaluation_interval(config, len(samples), evaluator)
        super().__init__(
            model=model,
            args=TrainingArguments(**loop_arguments(config, model.device.type, interval)),
            train_dataset=samples,
            eval_dataset=[],  # `evaluate` has its own turns; Trainer insists on a value
            data_collator=_PACKED.get(config.packing) or partial(collate, pad_id=pad_id),
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
        # NOTE: no cache, and no attention mask but that of `pack_shared`: samples would attend to one another.
        packed = {name: inputs[name] for name in ("position_ids", "attention_mask") if name in inputs}
        outputs = model(input_ids=inputs["input_ids"], logits_to_keep=kept, use_cache=False, **packed)
        logits = outputs.logits.flatten(0, 1).float()
        total = cross_entropy(logits, targets[:, kept].flatten(), ignore_index=IGNORED, reduction="sum")
        tokens = num_items_in_batch if num_items_in_batch is not None else (targets != IGNORED).sum()
        loss = total / tokens
        if num_items_in_batch is not None:
            # Gradients are averaged over processes, while the token count is that of all of them.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """transformers' own sampler, or ``LongestFirst`` if samples of different lengths are padded."""
        config = self._config
        if config.packing in _PACKED or config.micro_batch_samples == 1:
            return super()._get_train_sampler(train_dataset)
        return LongestFirst(train_dataset or self.train_dataset, config.batch_samples, config.seed)


def check_preference_library(config: TrainingConfig) -> None:
    """Check before anything is read that a training of pairs can begin.

    Raises:
        MissingPackage: TRL is not installed.
    """
    if config.preferences and find_spec("trl") is None:
        raise MissingPackage(
            "--preferences needs the package trl. Run `pip install --no-deps -r requirements/preferences.txt`."
        )


def create_trainer(
    model: Any,
    config: TrainingConfig,
    data: PreparedData,
    renderer: Renderer,
    evaluator: Evaluator | None,
    callbacks: Sequence[TrainerCallback],
) -> Any:
    """The trainer for ``data``: of chats, or of pairs of answers."""
    more: dict[str, Any] = {"evaluator": evaluator, "callbacks": callbacks}
    if data.preferences is None:
        return LoraTrainer(model=model, config=config, samples=data.samples, pad_id=renderer.pad_id, **more)
    from adapters.training.loop.preference_trainer import (
        PreferenceTrainer,  # TRL is an extra, and slow to import
    )

    return PreferenceTrainer(
        model=model, config=config, pairs=data.preferences.pairs, renderer=renderer, **more
    )


def run_loop(trainer: Any, fingerprint: str) -> int:
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

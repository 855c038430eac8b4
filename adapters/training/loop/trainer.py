"""The loop: transformers' Trainer, fed with our samples and our loss.

Everything that touches ``Trainer`` is in this file (transformers 5.19; its internals move between minors).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import IGNORED, Sample
from adapters.training.data.collator import collate, pack
from adapters.training.data.sampler import LongestFirst
from adapters.training.loop.checkpoint import resume_point, seal

# transformers' names of ours.
_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}


class LoraTrainer(Trainer):
    """Trainer whose loss looks only at trained tokens and is a mean over the whole optimizer step."""

    # transformers: our loss is already divided by the tokens of the whole accumulation window.
    loss_is_scaled_for_ga = True

    def __init__(
        self, *, model: Any, config: TrainingConfig, samples: Sequence[Sample], pad_id: int, **rest: Any
    ) -> None:
        super().__init__(
            model=model,
            args=_arguments(config, model.device.type),
            train_dataset=samples,
            data_collator=pack if config.packing == "on" else partial(collate, pad_id=pad_id),
            **rest,
        )
        self._config = config
        self.remove_callback(PrinterCallback)  # the progress bar and log.jsonl say the same
        # transformers: makes it count the trained tokens of the window and hand them to compute_loss.
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
        wanted = inputs["labels"][:, 1:]
        kept = (wanted != IGNORED).any(dim=0).nonzero().squeeze(1)
        # NOTE: no attention mask and no cache; either would let packed samples see one another.
        places = {"position_ids": inputs["position_ids"]} if "position_ids" in inputs else {}
        outputs = model(input_ids=inputs["input_ids"], logits_to_keep=kept, use_cache=False, **places)
        logits = outputs.logits.flatten(0, 1).float()
        total = cross_entropy(logits, wanted[:, kept].flatten(), ignore_index=IGNORED, reduction="sum")
        tokens = num_items_in_batch if num_items_in_batch is not None else (wanted != IGNORED).sum()
        loss = total / tokens
        if num_items_in_batch is not None:
            # Gradients are averaged over processes, while the token count is that of all of them.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """transformers' own, except where rows of different length would be padded to one."""
        config = self._config
        if config.packing == "on" or config.micro_batch_samples == 1:
            return super()._get_train_sampler(train_dataset)
        return LongestFirst(train_dataset or self.train_dataset, config.batch_samples, config.seed)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Only the adapter, never embeddings: peft would otherwise ask the hub whether they changed."""
        out = output_dir or self.args.output_dir
        self.model.save_pretrained(out, state_dict=state_dict, save_embedding_layers=False)


class Seal(TrainerCallback):
    """Seals every checkpoint once all its files are there."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Called by Trainer after it wrote a checkpoint."""
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._fingerprint)


def run_loop(trainer: LoraTrainer, fingerprint: str) -> int:
    """Train to the end, from the newest whole checkpoint if there is one; the optimizer steps taken in all.

    Raises:
        CheckpointError: the newest whole checkpoint belongs to another configuration.
    """
    start = resume_point(Path(trainer.args.output_dir), fingerprint)
    trainer.train(resume_from_checkpoint=str(start) if start else None)
    return int(trainer.state.global_step)


def _arguments(config: TrainingConfig, device: str) -> TrainingArguments:
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
        logging_nan_inf_filter=False,  # a NaN must be seen
        include_num_input_tokens_seen="all",
        save_strategy="steps" if checkpointing else "no",
        save_steps=config.checkpoint_every or 500,
        save_total_limit=max(config.keep_checkpoints, 2),
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
    )

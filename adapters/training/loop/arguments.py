"""The arguments of transformers' Trainer for a configuration."""

from __future__ import annotations

import math
import sys
from typing import Any

from accelerate import PartialState

from adapters.training.config import TrainingConfig
from adapters.training.evaluation.evaluator import Evaluator

# transformers' names of our optimizers.
_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}


def evaluation_interval(config: TrainingConfig, samples: int, evaluator: Evaluator | None) -> int | None:
    """Steps between evaluations, None for no evaluation. Trainer always evaluates after the last step.

    ``samples``: of one epoch.
    """
    if evaluator is None:
        return None
    if config.evaluate_every == 0:
        return math.ceil(samples / config.batch_samples)  # the steps of an epoch
    return config.evaluate_every if config.evaluate_every > 0 else sys.maxsize


def loop_arguments(config: TrainingConfig, device: str, interval: int | None) -> dict[str, Any]:
    """The fields of transformers' ``TrainingArguments``; ``interval`` is that of evaluations."""
    checkpointing = config.checkpoint_every > 0
    return {
        "output_dir": str(config.out / "checkpoints"),
        "per_device_train_batch_size": config.micro_batch_samples,
        "gradient_accumulation_steps": config.accumulation // PartialState().num_processes,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": config.warmup_share,  # below 1 it is a share
        "weight_decay": 0.0,
        "max_grad_norm": config.max_grad_norm,
        "optim": _OPTIMIZERS[config.optimizer],
        "gradient_checkpointing": config.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "seed": config.seed,
        "data_seed": config.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # show NaN as NaN
        "include_num_input_tokens_seen": "all",
        "eval_strategy": "steps" if interval else "no",
        "eval_steps": interval,
        "save_strategy": "steps" if checkpointing else "no",
        "save_steps": config.checkpoint_every or 500,
        "save_total_limit": max(config.keep_checkpoints, 2),
        "report_to": "none",  # trackers are passed as callbacks, with their folders and the offline mode
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device != "cpu",
    }

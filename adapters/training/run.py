"""One training from beginning to end: ``train(TrainingConfig(base=..., data=..., out=...))``."""

from __future__ import annotations

import shutil
import time
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, set_seed
from transformers.utils import logging as transformers_logging

from adapters.digests import base_digest, template_digest
from adapters.training.checkpoint import checkpoints, is_whole
from adapters.training.config import TrainingConfig
from adapters.training.duels import check_judge
from adapters.training.errors import BaseModelError, DivergedError
from adapters.training.loop import LoraTrainer, Seal, run_loop
from adapters.training.lora import add_lora, check_servable
from adapters.training.observe import Observation, observe
from adapters.training.output import check_out, write_adapter, write_report
from adapters.training.prepare import Prepared, load_renderer, prepare
from adapters.training.report import TrainingReport, report_on


def train(config: TrainingConfig, console: Console | None = None) -> TrainingReport:
    """Train an adapter and write it into ``config.out``; continue where a killed run of the same left off.

    Raises:
        TrainingError: one of its kinds; what is refused is refused before the first step.
    """
    console = console or Console(stderr=True)
    check_servable(config)
    check_out(config)
    check_base(config)
    check_judge(config)
    renderer = load_renderer(config)
    tokenizer = renderer.tokenizer
    prepared = prepare(config, renderer)
    _announce(console, config, prepared)

    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else renderer.end_id
    observation = observe(config, renderer, prepared.held_out, pad_id, console)

    set_seed(config.seed)
    model = add_lora(_load_base(config), config)
    started = time.perf_counter()
    trainer, steps = _fit(model, config, prepared, pad_id, observation)
    train_s = time.perf_counter() - started
    kept_step = observation.keep(model, steps)

    write_adapter(model, config)
    report = report_on(
        config,
        prepared,
        renderer,
        losses=[row["loss"] for row in trainer.state.log_history if "loss" in row],
        steps=steps,
        kept_step=kept_step,
        train_s=train_s,
        findings=observation.findings(model),
    )
    write_report(config, report.document)
    shutil.rmtree(config.out / "checkpoints", ignore_errors=True)
    return report


def check_base(config: TrainingConfig) -> None:
    """Refuse a folder that is no base model with a chat template.

    Raises:
        BaseModelError: it lacks a configuration, safetensors weights, or a chat template.
    """
    wanted = {
        "config.json": (config.base / "config.json").is_file(),
        "safetensors weights": any(config.base.glob("*.safetensors")),
        "a chat template": config.base.is_dir() and template_digest(config.base) is not None,
    }
    missing = [name for name, found in wanted.items() if not found]
    if missing:
        raise BaseModelError(
            f"{config.base.name} lacks {' and '.join(missing)}. Give the folder of the very model that is served."
        )


def _announce(console: Console, config: TrainingConfig, prepared: Prepared) -> None:
    console.print(
        f"{prepared.chats} chats, {len(prepared.samples)} samples, {prepared.tokens} tokens of which "
        f"{prepared.trained_tokens} trained; {len(prepared.held_out)} chats held out"
    )
    console.print(f"LoRA rank {config.rank}, alpha {config.alpha}, scaling {config.alpha / config.rank:g}")
    for warning in prepared.warnings(config):
        console.print(f"[yellow]{warning}")


def _load_base(config: TrainingConfig) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = config.dtype
    if wanted == "auto":
        # NOTE: on CPUs without AMX or AVX512-BF16 bfloat16 is emulated and more than twice as slow.
        wanted = "bfloat16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(config.base, dtype=dtype, local_files_only=True)
    return model.to(device)


def _fit(
    model: Any, config: TrainingConfig, prepared: Prepared, pad_id: int, observation: Observation
) -> tuple[LoraTrainer, int]:
    fingerprint = config.fingerprint(base_digest(config.base))
    trainer = LoraTrainer(
        model=model,
        config=config,
        samples=prepared.samples,
        pad_id=pad_id,
        callbacks=[observation.watch, Seal(fingerprint)],
    )
    try:
        return trainer, run_loop(trainer, fingerprint)
    except DivergedError as error:
        raise DivergedError(f"{error} {_what_is_left(config)}") from error
    finally:
        observation.end()


def _what_is_left(config: TrainingConfig) -> str:
    """Where the last good weights lie, for someone whose training broke."""
    folder = config.out / "checkpoints"
    whole = next((p for p in checkpoints(folder) if is_whole(p)), None)
    if whole is None:
        return "No checkpoint was taken before it; --checkpoint-every 50 keeps one."
    return f"The last good weights are in {folder.name}/{whole.name}; --start-from takes them."

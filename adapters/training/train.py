"""One training from beginning to end: ``train(TrainingConfig(base=..., data=..., out=...))``."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from accelerate import PartialState
from rich.console import Console
from transformers import set_seed

from adapters.artifact.digests import base_digest, template_digest
from adapters.artifact.shape import BaseShape
from adapters.training.config import TrainingConfig
from adapters.training.data.dataset import Prepared, load_renderer, prepare
from adapters.training.errors import BaseModelError, CheckpointError, DivergedError
from adapters.training.evaluation.pairwise import check_judge
from adapters.training.export.adapter_folder import REPORT_NAME, check_out, write_adapter, write_report
from adapters.training.export.report import TrainingReport, report_on
from adapters.training.loop.stages import first_stage, second_stage
from adapters.training.loop.trainer import LoraTrainer, Seal, run_loop
from adapters.training.model.base_model import device_of, load_base, settled
from adapters.training.model.lora import add_lora, check_servable, describe
from adapters.training.model.memory_check import check_memory
from adapters.training.monitoring.observers import Observation, observe


def train(config: TrainingConfig, console: Console | None = None) -> TrainingReport:
    """Train an adapter and write it into ``config.out``; continue where a killed run of the same left off.

    Raises:
        TrainingError: one of its kinds; what is refused is refused before the first step.
    """
    console = console or Console(stderr=True, soft_wrap=True, quiet=not PartialState().is_main_process)
    check_servable(config)
    check_out(config)
    check_base(config)
    config = settled(config, device_of())
    if config.then is None:
        return _train_stage(config, console)
    console.print(f"stage 1 of 2: {config.data.name}")
    first = first_stage(config)
    earlier = finished(first)
    if earlier is not None:
        console.print("stage 1 was finished before; its adapter is taken")
    document = earlier if earlier is not None else _train_stage(first, console).document
    PartialState().wait_for_everyone()
    console.print(
        f"stage 2 of 2: {config.then.name}, learning rate {config.learning_rate * config.then_rate:g}"
    )
    with PartialState().main_process_first():
        second = second_stage(config)
    return _train_stage(second, console, earlier_stages=[document])


def _train_stage(
    config: TrainingConfig, console: Console, earlier_stages: Sequence[dict[str, Any]] = ()
) -> TrainingReport:
    check_servable(config)
    check_judge(config)
    renderer = load_renderer(config)
    tokenizer = renderer.tokenizer
    prepared = prepare(config, renderer)
    _announce(console, config, prepared)
    plan = check_memory(config, prepared, device_of(), console)

    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else renderer.end_id
    observation = observe(config, renderer, prepared.held_out, pad_id, console)

    set_seed(config.seed)
    model = add_lora(load_base(config, device_of()), config)
    fingerprint = config.fingerprint(base_digest(config.base))
    started = time.perf_counter()
    trainer, steps = _fit(model, config, prepared, pad_id, observation, fingerprint)
    train_s = time.perf_counter() - started
    kept_step = observation.keep(model, steps)

    if not PartialState().is_main_process:
        return TrainingReport(config.out, steps, train_s, None, {})
    write_adapter(model, config)
    report = report_on(
        config,
        prepared,
        renderer,
        losses=[row["loss"] for row in trainer.state.log_history if "loss" in row],
        steps=steps,
        kept_step=kept_step,
        train_s=train_s,
        findings=observation.findings(_as_served(model, config)),
    )
    report.document.update(fingerprint=fingerprint, memory_plan_bytes=plan.total)
    if earlier_stages:
        report.document["stages"] = list(earlier_stages)
    write_report(config, report.document)
    shutil.rmtree(config.out / "checkpoints", ignore_errors=True)
    return report


def finished(config: TrainingConfig) -> dict[str, Any] | None:
    """The record of an earlier, finished training of exactly this; None where there is none.

    Raises:
        CheckpointError: what lies there was made with other settings, data or base.
    """
    record = config.out / REPORT_NAME
    if not record.is_file():
        return None
    document: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    if document.get("fingerprint") != config.fingerprint(base_digest(config.base)):
        raise CheckpointError(
            "The first stage was made with other settings, data or base model. Repeat the settings it was made "
            "with, or train into another folder."
        )
    return document


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
    try:
        BaseShape.from_config(config.base / "config.json")
    except (ValueError, KeyError) as error:
        raise BaseModelError(f"{config.base.name} cannot be trained on: {error}.") from error


def _announce(console: Console, config: TrainingConfig, prepared: Prepared) -> None:
    console.print(
        f"{prepared.chats} chats, {len(prepared.samples)} samples, {prepared.tokens} tokens of which "
        f"{prepared.trained_tokens} trained; {len(prepared.held_out)} chats held out"
    )
    if prepared.replayed_samples:
        console.print(f"{prepared.replayed_samples} of the samples are general ones, replayed")
    if prepared.rephrased_chats:
        console.print(f"{prepared.rephrased_chats} chats are asked in other words")
    for line in describe(config, BaseShape.from_config(config.base / "config.json")):
        console.print(line, highlight=False)
    for warning in prepared.warnings(config):
        console.print(f"[yellow]{warning}")


def _fit(
    model: Any,
    config: TrainingConfig,
    prepared: Prepared,
    pad_id: int,
    observation: Observation,
    fingerprint: str,
) -> tuple[LoraTrainer, int]:
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
        raise DivergedError(f"{error} {_keep_last_good(model, config)}") from error
    finally:
        observation.end()


def _as_served(model: Any, config: TrainingConfig) -> Any:
    """The model to measure: a 4-bit base is for training only, so the written adapter goes onto the whole one."""
    if not config.qlora or not config.measure:
        return model
    whole = replace(config, qlora=False, start_from=config.out)
    return add_lora(load_base(whole, device_of()), whole)


def _keep_last_good(model: Any, config: TrainingConfig) -> str:
    """Write the weights of the step before the one that broke, and say where they are."""
    folder = config.out / "checkpoints" / "last-good"
    if PartialState().is_main_process:
        model.save_pretrained(str(folder), save_embedding_layers=False)
    return (
        f"The weights of the step before are in {folder.parent.name}/{folder.name}; --start-from takes them."
    )

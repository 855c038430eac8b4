"""One training from beginning to end: ``train(TrainingConfig(base=..., data=..., out=...))``."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from accelerate import PartialState
from rich.console import Console
from transformers import TrainerCallback, set_seed

from adapters.artifact.digests import base_digest, template_digest
from adapters.artifact.shape import BaseShape
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Renderer
from adapters.training.data.dataset import load_renderer, prepare
from adapters.training.data.jsonl import read_steps
from adapters.training.data.prepared import PreparedData
from adapters.training.errors import BaseModelError, CheckpointError, DivergedError
from adapters.training.evaluation.evaluator import Evaluator
from adapters.training.evaluation.pairwise import check_judge
from adapters.training.export.adapter_folder import REPORT_NAME, check_out, write_adapter, write_report
from adapters.training.export.report import TrainingReport, create_report
from adapters.training.loop.checkpoint import interruption_notice
from adapters.training.loop.stages import first_stage, second_stage
from adapters.training.loop.trainer import check_preference_library, create_trainer, run_loop
from adapters.training.model.base_model import device_of, load_base, resolve_auto
from adapters.training.model.lora import add_lora, check_servable, describe
from adapters.training.model.memory_check import check_memory
from adapters.training.monitoring.anomaly_report import AnomalyReport
from adapters.training.monitoring.callbacks import create_callbacks
from adapters.training.monitoring.progress import STEPS_LOG
from adapters.training.training_evaluation import create_evaluation, start_preferences


def train(config: TrainingConfig, console: Console | None = None) -> TrainingReport:
    """Train an adapter and write it into ``config.out``; resume a killed run of the same configuration.

    Raises:
        TrainingError: one of its kinds. Settings and data are checked before the first step.
    """
    console = console or Console(stderr=True, soft_wrap=True, quiet=not PartialState().is_main_process)
    check_servable(config)
    check_out(config)
    check_base(config)
    check_preference_library(config)
    config = resolve_auto(config, device_of())
    if config.then is None:
        return _train_stage(config, console)
    console.print(f"stage 1 of 2: {config.data_names}")
    first = first_stage(config)
    earlier = finished_report(first)
    if earlier is not None:
        console.print("stage 1 is already finished; its adapter is used")
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
    try:
        return _run_stage(config, console, earlier_stages)
    except KeyboardInterrupt:
        console.print(
            interruption_notice(config.out / "checkpoints", config.checkpoint_every), style="yellow"
        )
        raise


def _run_stage(
    config: TrainingConfig, console: Console, earlier_stages: Sequence[dict[str, Any]]
) -> TrainingReport:
    began = time.perf_counter()
    renderer = load_renderer(config)
    data = prepare(config, renderer)
    _print_summary(console, config, data)
    plan = check_memory(config, data, device_of(), console)
    anomalies = AnomalyReport(console, config)
    callbacks = create_callbacks(config, console, anomalies)
    evaluation = create_evaluation(config, renderer, data, console)

    set_seed(config.seed)
    model = add_lora(load_base(config, device_of()), config)
    if data.preferences is not None:
        start_preferences(model, config, renderer, data.preferences, evaluation, console)
    fitted = _fit(model, config, data, renderer, evaluation.evaluator, callbacks)
    anomalies.finish(fitted.steps)
    kept_step = evaluation.select_weights(model, fitted.steps)

    if not PartialState().is_main_process:
        return TrainingReport(config.out, fitted.steps, fitted.train_s, None, {})
    write_adapter(model, config)
    results = evaluation.results(_as_served(model, config), kept_step) | {"health": anomalies.as_rows()}
    report = create_report(
        config,
        data,
        renderer,
        losses=fitted.losses,
        steps=fitted.steps,
        epochs=fitted.epochs,
        kept_step=kept_step,
        train_s=fitted.train_s,
        total_s=time.perf_counter() - began + fitted.earlier_s,
        results=results,
    )
    report.document.update(fingerprint=fitted.fingerprint, memory_plan_bytes=plan.total)
    report.document.update({"stages": list(earlier_stages)} if earlier_stages else {})
    _finish(config, report, console)
    return report


def _finish(config: TrainingConfig, report: TrainingReport, console: Console) -> None:
    """Write the report, which marks the folder as finished, and delete the checkpoints."""
    write_report(config, report.document)
    shutil.rmtree(config.out / "checkpoints", ignore_errors=True)
    console.print(f"The adapter is in {config.out}.", highlight=False)


def finished_report(config: TrainingConfig) -> dict[str, Any] | None:
    """The report of a finished training of exactly this configuration; None if there is none.

    Raises:
        CheckpointError: the report in the folder is of other settings, data or base.
    """
    path = config.out / REPORT_NAME
    if not path.is_file():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if document.get("fingerprint") != config.fingerprint(base_digest(config.base)):
        raise CheckpointError(
            "The first stage was made with other settings, data or base model. Repeat the settings it was made "
            "with, or train into another folder."
        )
    return document


def check_base(config: TrainingConfig) -> None:
    """Check that the folder is a base model with a chat template.

    Raises:
        BaseModelError: it lacks a configuration, safetensors weights, or a chat template.
    """
    required = {
        "config.json": (config.base / "config.json").is_file(),
        "safetensors weights": any(config.base.glob("*.safetensors")),
        "a chat template": config.base.is_dir() and template_digest(config.base) is not None,
    }
    missing = [name for name, found in required.items() if not found]
    if missing:
        raise BaseModelError(
            f"{config.base.name} lacks {' and '.join(missing)}. Give the folder of the model that the server serves."
        )
    try:
        BaseShape.from_config(config.base / "config.json")
    except (ValueError, KeyError) as error:
        raise BaseModelError(f"{config.base.name} cannot be trained on: {error}.") from error


def _print_summary(console: Console, config: TrainingConfig, data: PreparedData) -> None:
    console.print(
        f"{data.chats} chats, {len(data.samples)} samples, {data.tokens} tokens of which "
        f"{data.trained_tokens} trained; {len(data.held_out)} chats held out"
    )
    if len(data.files) > 1:
        samples = sum(file.samples for file in data.files)
        for file in data.files:
            console.print(
                f"{file.path.name}: {file.samples} samples an epoch, {file.samples / samples:.0%}",
                highlight=False,
            )
    if data.replayed_samples:
        console.print(f"{data.replayed_samples} of the samples are replayed general ones")
    if data.rephrased_chats:
        console.print(f"{data.rephrased_chats} chats are rephrased")
    for line in data.preferences.summary() if data.preferences else ():
        console.print(line, highlight=False)
    for line in describe(config, BaseShape.from_config(config.base / "config.json")):
        console.print(line, highlight=False)
    for warning in data.warnings(config):
        console.print(f"[yellow]{warning}")


@dataclass(frozen=True, slots=True)
class _Fitted:
    """The figures of a finished loop; ``earlier_s`` of ``train_s`` passed in processes that were interrupted."""

    fingerprint: str
    steps: int
    epochs: float
    losses: list[float]
    train_s: float
    earlier_s: float


def _fit(
    model: Any,
    config: TrainingConfig,
    data: PreparedData,
    renderer: Renderer,
    evaluator: Evaluator | None,
    callbacks: Sequence[TrainerCallback],
) -> _Fitted:
    fingerprint = config.fingerprint(base_digest(config.base))
    trainer = create_trainer(model, config, data, renderer, evaluator, callbacks)
    started = time.perf_counter()
    try:
        steps = run_loop(trainer, fingerprint)
    except DivergedError as error:
        raise DivergedError(f"{error} {_save_last_good(model, config)}") from error
    if data.preferences is not None:
        trainer.release_reference()
    own_s = time.perf_counter() - started
    log = read_steps(config.out / STEPS_LOG)
    earlier_s = sum(row["step_s"] for row in log if row["step"] <= trainer.resumed_step)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return _Fitted(fingerprint, steps, float(trainer.state.epoch or 0), losses, own_s + earlier_s, earlier_s)


def _as_served(model: Any, config: TrainingConfig) -> Any:
    """The model to evaluate: a 4-bit base serves only the training, so the adapter goes onto the full base."""
    if not config.qlora or not config.measure:
        return model
    full = replace(config, qlora=False, start_from=config.out)
    return add_lora(load_base(full, device_of()), full)


def _save_last_good(model: Any, config: TrainingConfig) -> str:
    """Save the weights of the step before the diverged one; returns a sentence that says where."""
    folder = config.out / "checkpoints" / "last-good"
    if PartialState().is_main_process:
        model.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)
    return (
        f"The weights of the step before are in {folder.parent.name}/{folder.name}; --start-from takes them."
    )

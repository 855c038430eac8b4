"""One training from beginning to end: ``train(TrainingConfig(base=..., data=..., out=...))``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from adapters.digests import base_digest, file_digest, template_digest
from adapters.training.config import TrainingConfig
from adapters.training.conversation import Conversation, Renderer, Sample, fold
from adapters.training.data import count_control_tokens, read_conversations, split_held_out
from adapters.training.errors import DataError
from adapters.training.evaluate import Score, held_out_turns, measure
from adapters.training.loop import LoraTrainer, Seal, run_loop
from adapters.training.lora import add_lora, check_servable
from adapters.training.output import check_out, rounded, write_adapter, write_report
from adapters.training.progress import ProgressBar, StepLog


@dataclass(frozen=True, slots=True)
class Prepared:
    """The data, ready: what is trained on, what is measured on, and what was noticed on the way."""

    samples: list[Sample]
    held_out: list[Conversation]
    chats: int
    dropped_turns: int  # longer than max_length_tokens
    control_token_messages: int  # whose text holds a control token

    @property
    def tokens(self) -> int:
        """Tokens of one epoch."""
        return sum(len(s.ids) for s in self.samples)

    @property
    def trained_tokens(self) -> int:
        """Trained tokens of one epoch."""
        return sum(s.trained_tokens for s in self.samples)


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What came of it."""

    out: Path
    steps: int
    train_s: float
    final_loss: float | None  # mean of the last ten steps of this run
    base_score: Score | None
    adapter_score: Score | None
    document: dict[str, Any]  # what training.json holds


def prepare(config: TrainingConfig, renderer: Renderer) -> Prepared:
    """Read, split and encode the data.

    Raises:
        DataError: a line cannot be used, or nothing is left to train on.
        TemplateError: the base's template cannot be trained on exactly.
    """
    chats = read_conversations(config.data)
    if config.held_out is not None:
        held_out = read_conversations(config.held_out)
    else:
        chats, held_out = split_held_out(chats, config.held_out_share)
    samples: list[Sample] = []
    dropped = 0
    for chat in chats:
        folded, left_out = fold(list(renderer.turns(chat)), config.max_length_tokens)
        samples += folded
        dropped += left_out
    if not samples:
        raise DataError(
            f"{config.data.name}: no turn is left to train on; {dropped} were longer than max_length_tokens "
            f"{config.max_length_tokens}. Raise it, or shorten the chats."
        )
    control = count_control_tokens([*chats, *held_out], renderer.tokenizer.all_special_tokens)
    return Prepared(samples, held_out, len(chats), dropped, control)


def train(config: TrainingConfig, console: Console | None = None) -> TrainingReport:
    """Train an adapter and write it into ``config.out``; continue where a killed run of the same left off.

    Raises:
        TrainingError: one of its kinds; what is refused is refused before the first step.
    """
    console = console or Console(stderr=True)
    check_servable(config)
    check_out(config)
    tokenizer = AutoTokenizer.from_pretrained(config.base, local_files_only=True)
    renderer = Renderer(tokenizer, config.end_token, config.template_kwargs)
    prepared = prepare(config, renderer)
    _announce(console, config, prepared)

    set_seed(config.seed)
    model = _load_base(config)
    peft_model = add_lora(model, config)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else renderer.end_id
    digest = base_digest(config.base)
    started = time.perf_counter()
    trainer, steps = _fit(peft_model, config, prepared.samples, pad_id, config.fingerprint(digest), console)
    train_s = time.perf_counter() - started

    write_adapter(peft_model, config)
    scores = _measure(peft_model, renderer, prepared.held_out, config, pad_id)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row][-10:]
    final_loss = rounded(sum(losses) / len(losses)) if losses else None
    document = _document(config, prepared, digest, renderer, steps, train_s, final_loss, scores)
    write_report(config, document)
    shutil.rmtree(config.out / "checkpoints", ignore_errors=True)
    base_score, adapter_score = scores if scores else (None, None)
    return TrainingReport(config.out, steps, train_s, final_loss, base_score, adapter_score, document)


def _announce(console: Console, config: TrainingConfig, prepared: Prepared) -> None:
    console.print(
        f"{prepared.chats} chats, {len(prepared.samples)} samples, {prepared.tokens} tokens of which "
        f"{prepared.trained_tokens} trained; {len(prepared.held_out)} chats held out"
    )
    console.print(f"LoRA rank {config.rank}, alpha {config.alpha}, scaling {config.alpha / config.rank:g}")
    if prepared.dropped_turns:
        console.print(
            f"[yellow]{prepared.dropped_turns} turns left out: longer than {config.max_length_tokens} tokens"
        )
    if prepared.control_token_messages:
        console.print(
            f"[yellow]{prepared.control_token_messages} messages hold a control token in their text; the server "
            "reads those as the end of a turn"
        )


def _load_base(config: TrainingConfig) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = config.dtype
    if wanted == "auto":
        # NOTE: on CPUs without AMX or AVX512-BF16 bfloat16 is emulated and more than twice as slow.
        wanted = "bfloat16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]
    model = AutoModelForCausalLM.from_pretrained(config.base, dtype=dtype, local_files_only=True)
    return model.to(device)


def _fit(
    model: Any,
    config: TrainingConfig,
    samples: Sequence[Sample],
    pad_id: int,
    fingerprint: str,
    console: Console,
) -> tuple[LoraTrainer, int]:
    config.out.mkdir(parents=True, exist_ok=True)
    bar = ProgressBar(console)
    callbacks = [StepLog(config.out / "log.jsonl"), bar, Seal(fingerprint)]
    trainer = LoraTrainer(model=model, config=config, samples=samples, pad_id=pad_id, callbacks=callbacks)
    try:
        return trainer, run_loop(trainer, fingerprint)
    finally:
        bar.stop()


def _measure(
    model: Any, renderer: Renderer, held_out: Sequence[Conversation], config: TrainingConfig, pad_id: int
) -> tuple[Score, Score] | None:
    """Scores of the bare base and of the adapter on the same held-out turns."""
    turns = held_out_turns(renderer, held_out, config.measure)
    if not turns:
        return None

    def run() -> Score:
        return measure(model, renderer, turns, pad_id=pad_id, max_new_tokens=config.max_new_tokens)

    with model.disable_adapter():
        base_score = run()
    return base_score, run()


def _document(
    config: TrainingConfig,
    prepared: Prepared,
    digest: str,
    renderer: Renderer,
    steps: int,
    train_s: float,
    final_loss: float | None,
    scores: tuple[Score, Score] | None,
) -> dict[str, Any]:
    names = ("torch", "transformers", "peft", "loragate")
    return {
        "format": 1,
        "base_digest": digest,
        "template_digest": template_digest(config.base),
        "data_digest": file_digest(config.data),
        "held_out_digest": file_digest(config.held_out) if config.held_out else None,
        "end_token": config.end_token,
        "end_token_id": renderer.end_id,
        "seed": config.seed,
        "hyperparameters": config.hyperparameters(),
        "data": {
            "chats": prepared.chats,
            "samples": len(prepared.samples),
            "tokens_per_epoch": prepared.tokens,
            "trained_tokens_per_epoch": prepared.trained_tokens,
            "held_out_chats": len(prepared.held_out),
            "dropped_turns": prepared.dropped_turns,
            "control_token_messages": prepared.control_token_messages,
        },
        "steps": steps,
        "train_s": round(train_s, 1),
        "final_loss": final_loss,
        "scores": {"base": scores[0].as_dict(), "adapter": scores[1].as_dict()} if scores else None,
        "versions": {name: _version(name) for name in names},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

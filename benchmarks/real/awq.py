"""The real model in 4 bits: minutes, perplexity, and the adapter's answers on it.

The 4-bit weights are dequantized and computed in float32, so that this runs on processors for which vLLM has no
kernel of 4-bit products.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel

from adapters.training.data.chat_template import Turn
from adapters.training.evaluation.generate import answer_turns
from adapters.training.quantization.quantize import REPORT, load_dequantized
from benchmarks.harness.progress import ProgressReporter
from benchmarks.real.journey import ASSISTANT, Journey, run_loragate
from benchmarks.real.served import CALL_TOKENS, HeldOut, Ids, load_peft
from server.engine.awq_adapters import AwqAdapters

_MINUTES = "minutes.json"
_COMPARED = 32  # answers of the adapter on both bases


def checkpoint(journey: Journey) -> Path:
    """The folder of the 4-bit model."""
    return journey.home / "awq"


def measure_quantizing(journey: Journey, more: Sequence[str], progress: ProgressReporter) -> dict[str, float]:
    """Quantize the base, or read the figures of the earlier run. `more`: further flags.

    Raises:
        StepFailed: it fails.
    """
    out = checkpoint(journey)
    minutes = journey.home / f"awq-{_MINUTES}"
    if not (out / REPORT).is_file():
        progress.log("quantizing")
        _, seconds = run_loragate("quantize", str(journey.base), "--out", str(out), "--json", *more)
        minutes.write_text(json.dumps(seconds / 60), encoding="utf-8")
    report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    return {
        "awq_minutes": float(json.loads(minutes.read_text(encoding="utf-8"))),
        "awq_perplexity_ratio": report["perplexity_after"] / report["perplexity_before"],
        "awq_perplexity_before": report["perplexity_before"],
        "awq_size_ratio": report["bytes_after"] / report["bytes_before"],
    }


def measure_adapter(journey: Journey, home: Path, progress: ProgressReporter) -> dict[str, float]:
    """The adapter's answers on the 4-bit base beside those on the full one, to held-out turns with calls."""
    held_out = HeldOut.of(journey)
    turns = held_out.calls[:_COMPARED]
    progress.log("the adapter answers on the full base")
    full = _answers(load_peft(journey), held_out, turns)
    scaled = AwqAdapters.of(checkpoint(journey), home / "scaled")
    folder = journey.adapter(ASSISTANT)
    folder = scaled.write(1, folder) if scaled else folder
    progress.log("the adapter answers on the 4-bit base")
    base = load_dequantized(checkpoint(journey))
    small = _answers(PeftModel.from_pretrained(base, str(folder)).eval(), held_out, turns)
    return {
        "adapter_on_awq_agreement": sum(a == b for a, b in zip(full, small, strict=True)) / len(turns),
        "calls_right_full": held_out.score_calls(full).tool_calls or 0.0,
        "calls_right_awq": held_out.score_calls(small).tool_calls or 0.0,
    }


def _answers(model: Any, held_out: HeldOut, turns: Sequence[Turn]) -> list[Ids]:
    # NOTE: without the repetition penalty of the model's generation_config.json.
    model.generation_config.repetition_penalty = None
    return answer_turns(model, held_out.renderer, turns, CALL_TOKENS)

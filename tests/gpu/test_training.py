"""bf16, SDPA, packing and recomputed activations on a Qwen2.5-3B shape: it learns, and fits where it should."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from adapters.artifact.shape import BaseShape
from adapters.training.config import TrainingConfig
from adapters.training.data.dataset import load_renderer, prepare
from adapters.training.loop.trainer import LoraTrainer, run_loop
from adapters.training.model.base_model import load_base, resolve_auto
from adapters.training.model.lora import add_lora
from adapters.training.model.memory_plan import largest_pass, plan_memory
from benchmarks.training.speed import write_base, write_data

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LAYERS = 36
STEPS, BATCH = 20, 16


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base("qwen2.5-3b", LAYERS, tmp_path_factory.mktemp("gpu") / "base")


@pytest.mark.timeout(1800)
def test_a_3b_shape_trains_in_bf16_with_checkpointing(base: Path, tmp_path: Path) -> None:
    config = resolve_auto(
        TrainingConfig(
            base=base, data=write_data(tmp_path / "data.jsonl", STEPS * BATCH), out=tmp_path / "out", epochs=1.0,
            batch_samples=BATCH, micro_batch_samples=BATCH, gradient_checkpointing=True,
            held_out_share=0.0, measure=0,
        ),
        "cuda:0",
    )  # fmt: skip
    assert (config.dtype, config.attention, config.packing) == ("bfloat16", "sdpa", "on")
    renderer = load_renderer(config)
    samples = prepare(config, renderer).samples
    shape = BaseShape.from_config(base / "config.json")
    plan = plan_memory(config, shape, largest_pass(config, samples), base=0, file_bytes=0)
    model = add_lora(load_base(config, "cuda:0"), config)
    trainer = LoraTrainer(model=model, config=config, samples=samples, pad_id=renderer.tokenizer.pad_token_id)
    torch.cuda.reset_peak_memory_stats()
    began_s = time.perf_counter()
    assert run_loop(trainer, "gpu") == STEPS
    seconds = time.perf_counter() - began_s
    peak_bytes = torch.cuda.max_memory_allocated()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    print(
        json.dumps(
            {
                "tokens_per_s": round(sum(len(s.ids) for s in samples) / seconds, 1),
                "peak_gib": round(peak_bytes / 2**30, 3),
                "plan_gib": round(plan.total / 2**30, 3),
                "first_loss": losses[0],
                "last_loss": losses[-1],
            }
        )
    )
    assert losses[-1] < losses[0]
    assert peak_bytes <= 1.15 * plan.total

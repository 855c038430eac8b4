"""Random adapters on a real model's shape, and the most that their work can cost."""

from __future__ import annotations

from pathlib import Path

from adapters.artifact import BaseShape
from benchmarks.harness.processes.tenant_server import TENANT
from demo.random_adapter import write_random_adapter

RANK = 16
_ADAPTER_SCALE = 0.05


def tax_limits(shape: BaseShape, adapters: int, rank: int = RANK) -> dict[str, float]:
    """The highest possible `lora_tax_*`: the work of the base divided by the work of base and adapters.

    Prefill multiplies a row by its own adapter only; a decode step reads the weights of all adapters. The output
    layer counts in decode only, because prefill needs it for one row per request.
    """
    base = shape.layers * sum(a * b for a, b in shape.projections.values())
    lora = shape.layers * rank * sum(a + b for a, b in shape.projections.values())
    read = base + shape.vocab_size * shape.hidden_size
    return {
        "lora_tax_prefill_limit": base / (base + lora),
        "lora_tax_decode_limit": read / (read + adapters * lora),
    }


def write_adapters(model: Path, folder: Path, number: int) -> dict[str, Path]:
    """Write `number` random adapters of rank 16. Returns: public model name → folder."""
    return {
        f"{TENANT}-a{place}": write_random_adapter(
            folder / f"a{place}", seed=place, rank=RANK, scale=_ADAPTER_SCALE, base_dir=model
        )
        for place in range(number)
    }

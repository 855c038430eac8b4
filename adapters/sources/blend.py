"""A source that is computed: the combination of versions that are in the store already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.artifact.combination import ScaledArtifact, combine
from adapters.artifact.shape import BaseShape
from adapters.sources.byte_limit import ByteLimit


@dataclass(frozen=True, slots=True)
class BlendSource:
    """What to combine; see `combine`. The parts must stay in the store until the fetch has ended."""

    parts: tuple[ScaledArtifact, ...]
    label: str
    base: BaseShape
    max_lora_rank: int
    reduce_rank: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)  # stored with the version


def fetch_blend(source: BlendSource, into: Path, limit: ByteLimit) -> Mapping[str, Any]:
    """Write the combination; returns its facts: `rank` and `relative_error`. Raises: as `combine`."""
    result = combine(
        source.parts,
        into,
        base=source.base,
        max_lora_rank=source.max_lora_rank,
        max_bytes=limit.limit_bytes,
        reduce_rank=source.reduce_rank,
        stop=lambda: limit.add(0),
    )
    return {"rank": result.rank, "relative_error": result.relative_error}

"""Checks `adapter_config.json`.

The rules are those of vLLM 0.32 (`vllm/lora/peft_helper.py: PEFTHelper`), and further ones for settings that vLLM
ignores although they change the result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from adapters.artifact.files import CONFIG, printable_value
from adapters.artifact.patterns import resolve
from adapters.artifact.variants import check_kind, check_variants
from adapters.errors import ArtifactRefused


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The configuration that the tensors must fit."""

    rank: int
    alpha: float
    rslora: bool
    ranks: Mapping[str, tuple[int, ...]]  # by full path, for the modules that patterns match; the first holds
    alphas: Mapping[str, tuple[float, ...]]  # likewise
    ordered: bool  # whether the patterns are in the order in which PEFT applied them in training
    target_modules: tuple[str, ...] | str
    exclude_modules: tuple[str, ...] | str
    layers_to_transform: tuple[int, ...] | None

    @property
    def largest_rank(self) -> int:
        """The largest rank of any module, which the engine must allow."""
        return max([self.rank, *(rank for ranks in self.ranks.values() for rank in ranks)])

    def ranks_of(self, module: str) -> tuple[int, ...]:
        """The ranks that a module, given by its full path, may have.

        NOTE: PEFT writes patterns in alphabetical order, so one may come before the one that held in training. The
        tensors then tell which it was.
        """
        ranks = self.ranks.get(module, (self.rank,))
        return ranks[:1] if self.ordered else ranks

    def alpha_of(self, module: str) -> float:
        """The alpha of a module, given by its full path."""
        return self.alphas.get(module, (self.alpha,))[0]

    def unclear_alpha(self, module: str) -> tuple[float, ...]:
        """The alphas of which PEFT may have used any in training; empty where it is clear."""
        alphas = dict.fromkeys(self.alphas.get(module, ()))
        return () if self.ordered or len(alphas) < 2 else tuple(alphas)

    def scaling(self) -> float:
        """The factor of the product of B and A, for modules without a pattern."""
        return self.alpha / math.sqrt(self.rank) if self.rslora else self.alpha / self.rank

    def targets(self, module: str) -> bool | None:
        """Whether PEFT trains this module; None where a regular expression decides."""
        if isinstance(self.target_modules, str) or isinstance(self.exclude_modules, str):
            return None
        layer = re.search(r"\.layers\.(\d+)\.", module)
        if layer and self.layers_to_transform is not None and int(layer[1]) not in self.layers_to_transform:
            return False
        named = any(module == name or module.endswith("." + name) for name in self.target_modules)
        return named and not any(module == n or module.endswith("." + n) for n in self.exclude_modules)


def read_config(config: Mapping[str, Any], max_lora_rank: int, modules: Collection[str] = ()) -> LoraConfig:
    """Check the configuration and return the part that the tensors must fit. Raises: ArtifactRefused.

    `modules` are the full paths of the base model's layers, to which the patterns of ranks and alphas are applied.
    """
    check_kind(config)
    check_variants(config)
    lora = LoraConfig(
        rank=_rank(config.get("r"), "r"),
        alpha=_alpha(config.get("lora_alpha"), "lora_alpha"),
        rslora=bool(config.get("use_rslora")),
        ranks=resolve(config.get("rank_pattern"), "rank_pattern", _rank, modules),
        alphas=resolve(config.get("alpha_pattern"), "alpha_pattern", _alpha, modules),
        ordered=not all(_is_sorted(config.get(name)) for name in ("rank_pattern", "alpha_pattern")),
        target_modules=_names(config, "target_modules"),
        exclude_modules=_names(config, "exclude_modules"),
        layers_to_transform=_layers(config.get("layers_to_transform")),
    )
    if lora.largest_rank > max_lora_rank:
        raise ArtifactRefused(
            f"Rank {lora.largest_rank} is above --max-lora-rank {max_lora_rank}; restart with "
            f"--max-lora-rank {engine_rank(lora.largest_rank)} or retrain with r <= {max_lora_rank}."
        )
    if not lora.target_modules:
        raise ArtifactRefused(f"{CONFIG} names no target_modules; save the adapter again with PEFT.")
    return lora


def engine_rank(rank: int) -> int:
    """The smallest --max-lora-rank of vLLM (`vllm/config/lora.py: MaxLoRARanks`) that allows `rank`."""
    return next((size for size in (1, 8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), 512)


def _is_sorted(patterns: Any) -> bool:
    names = list(patterns or ())
    return names == sorted(names)


def _rank(value: object, name: str) -> int:
    if type(value) is not int or not 0 < value <= 65536:
        raise ArtifactRefused(
            f"{CONFIG} has {name} = {printable_value(value)}; a rank must be a whole number above 0."
        )
    return value


def _alpha(value: object, name: str) -> float:
    number = value if type(value) in (int, float) else math.nan
    assert isinstance(number, int | float)
    if not math.isfinite(number) or number < 0:
        raise ArtifactRefused(f"{CONFIG} has {name} = {printable_value(value)}; it must be a number above 0.")
    if number == 0:
        raise ArtifactRefused(f"{name} is 0, so the adapter changes nothing; retrain with alpha = r or 2 r.")
    return float(number)


def _names(config: Mapping[str, Any], name: str) -> tuple[str, ...] | str:
    value = config.get(name) or ()
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ArtifactRefused(
        f"{CONFIG} has {name} = {printable_value(value)}; it must be a list of module names."
    )


def _layers(value: object) -> tuple[int, ...] | None:
    if value is None or value == []:
        return None
    numbers = value if isinstance(value, list) else [value]
    if any(type(number) is not int for number in numbers):
        raise ArtifactRefused(
            f"{CONFIG} has layers_to_transform = {printable_value(value)}; it must be a list of layer numbers."
        )
    return tuple(numbers)

"""Checks `adapter_config.json`.

The rules are those of vLLM 0.32 (`vllm/lora/peft_helper.py: PEFTHelper`), and further ones for settings that vLLM
ignores although they change the result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.artifact.files import CONFIG, printable
from adapters.errors import ArtifactRefused

_PLAIN_INITS = {"gaussian", "eva", "orthogonal", "mica", "lora_ga"}
_RETRAIN = "retrain as plain LoRA"
_PATTERNS_MAX = 2000

_REFUSED: dict[str, str] = {
    "use_dora": f"DoRA cannot be served; {_RETRAIN} with use_dora=False.",
    "lora_bias": f"LoRA with biases cannot be served; {_RETRAIN} with lora_bias=False.",
    "trainable_token_indices": (
        f"Trained tokens (trainable_token_indices) cannot be served; {_RETRAIN} without new tokens."
    ),
    "target_parameters": (
        f"target_parameters cannot be served; {_RETRAIN} and name the layers in target_modules."
    ),
    "alora_invocation_tokens": f"Activated LoRA (aLoRA) cannot be served; {_RETRAIN}.",
    "layer_replication": f"layer_replication cannot be served; {_RETRAIN} on the base as it is.",
    "use_bdlora": f"Block-diagonal LoRA (use_bdlora) cannot be served; {_RETRAIN}.",
    "use_qalora": f"QALoRA (use_qalora) cannot be served; {_RETRAIN} (QLoRA is fine).",
    "arrow_config": f"Arrow routing (arrow_config) cannot be served; {_RETRAIN}.",
    "velora_config": f"VeLoRA (velora_config) cannot be served; {_RETRAIN}.",
    "kasa_config": f"KaSA (kasa_config) cannot be served; {_RETRAIN}.",
    "monteclora_config": f"MonteCLoRA (monteclora_config) cannot be served; {_RETRAIN}.",
}
_IGNORABLE = {
    "use_rslora",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "loftq_config",
    "runtime_config",
    "megatron_config",
}


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The configuration that the tensors must fit."""

    rank: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: tuple[str, ...] | str
    exclude_modules: tuple[str, ...] | str
    layers_to_transform: tuple[int, ...] | None

    @property
    def largest_rank(self) -> int:
        """The largest rank of any module, which the engine must allow."""
        return max([self.rank, *self.rank_pattern.values()])

    def rank_of(self, module: str) -> int:
        """The rank of a module, given by its full path."""
        return int(_match(self.rank_pattern, module, self.rank))

    def scaling_of(self, module: str) -> float:
        """The factor of the product of B and A."""
        alpha, rank = float(_match(self.alpha_pattern, module, self.alpha)), self.rank_of(module)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def targets(self, module: str) -> bool | None:
        """Whether PEFT trains this module; None where a regular expression decides."""
        if isinstance(self.target_modules, str) or isinstance(self.exclude_modules, str):
            return None
        layer = re.search(r"\.layers\.(\d+)\.", module)
        if layer and self.layers_to_transform is not None and int(layer[1]) not in self.layers_to_transform:
            return False
        named = any(module == name or module.endswith("." + name) for name in self.target_modules)
        return named and not any(module == n or module.endswith("." + n) for n in self.exclude_modules)


def read_config(config: Mapping[str, Any], max_lora_rank: int) -> LoraConfig:
    """Check the configuration and return the part that the tensors must fit. Raises: ArtifactRefused."""
    _check_kind(config)
    _check_variants(config)
    lora = LoraConfig(
        rank=_rank(config.get("r"), "r"),
        alpha=_alpha(config.get("lora_alpha"), "lora_alpha"),
        rslora=bool(config.get("use_rslora")),
        rank_pattern=_pattern(config, "rank_pattern", _rank),
        alpha_pattern=_pattern(config, "alpha_pattern", _alpha),
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


def _check_kind(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise ArtifactRefused(f"This is a {printable(kind)} adapter; only LoRA can be served, {_RETRAIN}.")
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise ArtifactRefused(
            f"The adapter was trained for {printable(task)}; this server generates text, "
            "retrain with task_type CAUSAL_LM."
        )


def _check_variants(config: Mapping[str, Any]) -> None:
    for name, sentence in _REFUSED.items():
        if config.get(name):
            raise ArtifactRefused(sentence)
    bias = config.get("bias", "none")
    if bias != "none":
        raise ArtifactRefused(f"bias={printable(bias)} cannot be served; {_RETRAIN} with bias='none'.")
    if saved := config.get("modules_to_save"):
        raise ArtifactRefused(
            f"Fully trained modules (modules_to_save: {printable(saved)}) cannot be served; "
            f"{_RETRAIN} without modules_to_save."
        )
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        raise ArtifactRefused(
            f"init_lora_weights={printable(init)} changed the base model's weights in training; convert the "
            "adapter with PEFT's save_pretrained(path_initial_model_for_weight_conversion=…) or retrain "
            "with init_lora_weights=True."
        )
    for name, value in config.items():
        unknown = name.startswith("use_") or name.endswith("_config")
        if unknown and value and name not in _IGNORABLE and name not in _REFUSED:
            raise ArtifactRefused(
                f"{printable(name)} asks for a LoRA variant that this server does not know; {_RETRAIN}."
            )


def _rank(value: object, name: str) -> int:
    if type(value) is not int or not 0 < value <= 65536:
        raise ArtifactRefused(
            f"{CONFIG} has {name} = {printable(value)}; a rank must be a whole number above 0."
        )
    return value


def _alpha(value: object, name: str) -> float:
    number = value if type(value) in (int, float) else math.nan
    assert isinstance(number, int | float)
    if not math.isfinite(number) or number < 0:
        raise ArtifactRefused(f"{CONFIG} has {name} = {printable(value)}; it must be a number above 0.")
    if number == 0:
        raise ArtifactRefused(f"{name} is 0, so the adapter changes nothing; retrain with alpha = r or 2 r.")
    return float(number)


def _pattern(config: Mapping[str, Any], name: str, check: Any) -> dict[str, Any]:
    entries = config.get(name) or {}
    if not isinstance(entries, Mapping):
        raise ArtifactRefused(f"{CONFIG} has {name} = {printable(entries)}; it must be an object.")
    if len(entries) > _PATTERNS_MAX:
        raise ArtifactRefused(
            f"{name} has {len(entries)} entries, above {_PATTERNS_MAX}; {_RETRAIN} without it."
        )
    return {
        key: check(value, f"{name} of {printable(_checked_pattern(key, name))}")
        for key, value in entries.items()
    }


def _checked_pattern(pattern: str, name: str) -> str:
    """Check a pattern. NOTE: vLLM runs it as a regular expression, and a malicious one would block the engine."""
    plain = len(pattern) <= 200 and re.fullmatch(r"[\w.\\^$|()\[\]*+?-]*", pattern, re.ASCII)
    if not plain or re.search(r"\)[*+?]|[*+?]{3}", pattern) or len(re.findall(r"[*+?]", pattern)) > 2:
        raise ArtifactRefused(f"{name} has the pattern {printable(pattern)}; use plain module names there.")
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except re.error as error:
        raise ArtifactRefused(
            f"{name} has the unreadable pattern {printable(pattern)}; save it again."
        ) from error
    return pattern


def _match(pattern: Mapping[str, Any], module: str, default: float) -> float:
    """Apply the rule of vLLM and PEFT: a key matches as a suffix that starts at a dot; the first match wins."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return float(value)
    return default


def _names(config: Mapping[str, Any], name: str) -> tuple[str, ...] | str:
    value = config.get(name) or ()
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ArtifactRefused(f"{CONFIG} has {name} = {printable(value)}; it must be a list of module names.")


def _layers(value: object) -> tuple[int, ...] | None:
    if value is None or value == []:
        return None
    numbers = value if isinstance(value, list) else [value]
    if any(type(number) is not int for number in numbers):
        raise ArtifactRefused(
            f"{CONFIG} has layers_to_transform = {printable(value)}; it must be a list of layer numbers."
        )
    return tuple(numbers)

"""Checks the tensors against the adapter's configuration and the sizes of the base model."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from adapters.artifact.config import LoraConfig
from adapters.artifact.files import CONFIG, WEIGHTS, printable_value
from adapters.artifact.header import Tensor
from adapters.artifact.shape import PROJECTIONS, BaseShape
from adapters.errors import ArtifactRefused

PREFIX = "base_model.model."
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.(?P<side>lora_A|lora_B)\.weight")
_EMBEDDING_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.(?P<side>lora_embedding_[AB])")
_NAMED_KEY = re.compile(r".+\.lora_(?:embedding_)?[AB]\.(?P<adapter>(?!weight$)[^.]+)(?:\.weight)?")
_WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "module.": "DataParallel or DeepSpeed",
}
_EMBEDDINGS = ("model.embed_tokens", "lm_head")


@dataclass(frozen=True, slots=True)
class Pair:
    """The factors A and B of one module's update B·A."""

    module: str
    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        """The number of rows of A."""
        return self.a.shape[0]


def pair_tensors(tensors: Mapping[str, Tensor], config: LoraConfig, base: BaseShape) -> tuple[Pair, ...]:
    """The pair of factors of every module, checked against the base. Raises: ArtifactRefused."""
    _check_factors(tensors)
    sizes = base.lora_modules()
    sides: dict[str, dict[str, Tensor]] = {}
    # The base model's own weights last: PEFT saves them beside a LoRA on the head, which is the cause to name.
    for tensor in sorted(tensors.values(), key=lambda tensor: ".base_layer." in tensor.name):
        module, side = _parse_key(tensor.name)
        if module not in sizes:
            raise ArtifactRefused(_explain_module(module, base))
        sides.setdefault(module, {})[side] = tensor
    pairs = tuple(_pair(module, found) for module, found in sides.items())
    for pair in pairs:
        _check_shapes(pair, config, sizes[pair.module], base)
    _check_complete(sides.keys(), config, base)
    return pairs


def module_of(key: str) -> str:
    """The layer that a tensor's name belongs to, by its full path. Raises: ArtifactRefused: no LoRA factor."""
    return _parse_key(key)[0]


def _check_factors(names: Iterable[str]) -> None:
    """Check that there are LoRA factors at all. Raises: ArtifactRefused."""
    names = list(names)
    if not any(".lora_" in name or name.startswith("lora_") for name in names):
        raise ArtifactRefused(
            f"{WEIGHTS} holds whole layers ({printable_value(names[0])}) and no LoRA factors: this is a merged or a "
            "whole model, not an adapter. Save the PEFT model with save_pretrained, before merge_and_unload."
        )


def _parse_key(key: str) -> tuple[str, str]:
    """Split `base_model.model.<module>.lora_A.weight` into (module, "a" or "b")."""
    if key.endswith((".base_layer.weight", ".base_layer.bias")):
        raise ArtifactRefused(
            f"{printable_value(key)} holds the base model's own weights, which would be dropped in silence; "
            "save again with save_embedding_layers=False and without resized or trained embeddings."
        )
    for wrapper, culprit in _WRAPPERS.items():
        if re.search(rf"(^|\.){re.escape(wrapper)}", key):
            raise ArtifactRefused(
                f"The tensor names contain {wrapper!r}, left there by {culprit}, and would match no layer; "
                "save the unwrapped model."
            )
    match = _KEY.fullmatch(key) or _EMBEDDING_KEY.fullmatch(key)
    if match is not None and ("embedding" in match["side"]) == match["module"].endswith("embed_tokens"):
        return match["module"], "a" if match["side"].endswith("A") else "b"
    if named := _NAMED_KEY.fullmatch(key):
        raise ArtifactRefused(
            f"The tensor names contain the adapter's name ({printable_value(named['adapter'])}), as in the model's "
            f"own state_dict: {printable_value(key)}. They would match no layer; save again with PEFT's "
            "save_pretrained, which leaves it out."
        )
    if ".modules_to_save." in key or (key.endswith((".weight", ".bias")) and ".lora_" not in key):
        raise ArtifactRefused(
            f"{printable_value(key)} is a whole layer, not a LoRA factor; retrain without modules_to_save, "
            "new tokens and trained biases."
        )
    if not key.startswith(PREFIX) and ".lora_" in key:
        raise ArtifactRefused(
            f"Tensor {printable_value(key)} does not start with {PREFIX}, so it would match no layer; "
            "save with PEFT's save_pretrained."
        )
    raise ArtifactRefused(
        f"Tensor {printable_value(key)} is no LoRA factor that can be served; retrain as plain LoRA with PEFT."
    )


def _explain_module(module: str, base: BaseShape) -> str:
    leaf = module.rpartition(".")[2]
    if module in _EMBEDDINGS or leaf in ("embed_tokens", "lm_head"):
        return (
            f"LoRA on {leaf} cannot be served on {base.family}; "
            f"retrain with target_modules {', '.join(PROJECTIONS)}."
        )
    if leaf not in PROJECTIONS:
        return (
            f"LoRA on {printable_value(leaf)} cannot be served; "
            f"retrain with target_modules among {', '.join(PROJECTIONS)}."
        )
    layer = re.fullmatch(r"model\.layers\.(\d{1,6})\..+", module)
    if layer is not None and int(layer[1]) >= base.layers:
        return (
            f"The adapter has layer {layer[1]}, but the base model has layers 0 to {base.layers - 1}; "
            "it was trained on another base model."
        )
    if re.fullmatch(r"layers\.\d+\..+", module):
        return (
            f"Tensor names lack '.model.' ({printable_value(PREFIX + module)}), so they would match no layer; "
            "train on AutoModelForCausalLM, not AutoModel, and save again."
        )
    return (
        f"The base model has no layer {printable_value(module)}; expected names like "
        f"{PREFIX}model.layers.0.self_attn.q_proj, so save from the plain {base.family}ForCausalLM."
    )


def _pair(module: str, found: Mapping[str, Tensor]) -> Pair:
    if len(found) != 2:
        have, lack = ("A", "B") if "a" in found else ("B", "A")
        raise ArtifactRefused(
            f"{module} has lora_{have} but no lora_{lack}; the file is incomplete, save the adapter again."
        )
    return Pair(module, found["a"], found["b"])


def _check_shapes(pair: Pair, config: LoraConfig, sizes: tuple[int, int], base: BaseShape) -> None:
    a, b, ranks = pair.a.shape, pair.b.shape, config.ranks_of(pair.module)
    if len(a) != 2 or len(b) != 2 or 0 in (*a, *b):
        raise ArtifactRefused(
            f"The tensors of {pair.module} are empty or flat ({_shape(a)} and {_shape(b)}), as ZeRO-3 and "
            "FSDP leave them; gather the parameters before saving."
        )
    if a[0] not in ranks or b[1] != a[0]:
        raise ArtifactRefused(
            f"{pair.module} has rank {a[0] if a[0] not in ranks else b[1]} in {WEIGHTS} but {ranks[0]} in {CONFIG}, "
            "which would scale it wrongly; use the configuration it was trained with."
        )
    if (a[1], b[0]) != sizes:
        other = "smaller" if a[1] < sizes[0] or b[0] < sizes[1] else "larger"
        raise ArtifactRefused(
            f"{pair.module} maps {a[1]} to {b[0]} values, but the base model maps {sizes[0]} to {sizes[1]}; "
            f"it was trained on a {other} base than this {base.family} of hidden size {base.hidden_size}."
        )


def _check_complete(modules: Collection[str], config: LoraConfig, base: BaseShape) -> None:
    """Check that every targeted layer has tensors: PEFT trains them all, so a file without some is incomplete."""
    for module in base.modules():
        if module not in modules and config.targets(module):
            raise ArtifactRefused(
                f"{CONFIG} targets {module}, but {WEIGHTS} has no tensors for it; "
                "the file is incomplete, save the adapter again."
            )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "scalar"

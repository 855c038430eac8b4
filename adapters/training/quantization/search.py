"""AutoAWQ's quantizer with faster searches and packing on a CPU; results are kept on disk, so that a run can resume.

Uses autoawq 0.2.9: AwqQuantizer._search_best_scale, ._compute_best_scale, ._search_best_clip, ._compute_best_clip,
._apply_quant and .pseudo_quantize_tensor; WQLinear_GEMM.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from adapters.store.fsync import sync_file
from adapters.training.quantization.awq_weights import BITS, encode, pack

#: Tokens on which a candidate scale is tried. A scale is one of 20 powers of the channels' mean, which is taken over
#: all tokens; AutoAWQ tries them on all tokens, too.
SEARCH_TOKENS = 1024
#: Tokens on which a clipping bound is tried, as in AutoAWQ.
_CLIP_TOKENS = 512
_CLIP_STEPS, _CLIP_GRID = 10, 20


class KeptResults:
    """The results of finished blocks, one file per block in ``folder``.

    Args:
        folder: made when the first block is kept.
        blocks: in the model.
        progress: called with the number of finished blocks and of all.
    """

    def __init__(self, folder: Path, blocks: int, progress: Callable[[int, int], None]) -> None:
        self._folder = folder
        self._blocks = blocks
        self._progress = progress
        self._number = -1
        self._known: dict[str, torch.Tensor] = {}

    def find(self, block: int, name: str, search: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The result ``name`` of ``block``, from an earlier run or from ``search``."""
        if block != self._number:
            self._number = block
            path = self._path(block)
            self._known = load_file(path) if path.is_file() else {}
        if name not in self._known:
            self._known[name] = search().contiguous()
        return self._known[name]

    def finish(self, block: int) -> None:
        """Write the results of ``block``, unless they are there already."""
        path = self._path(block)
        if not path.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            save_file(self._known, partial)
            with partial.open("rb") as file:
                sync_file(file)
            partial.replace(path)
        self._progress(block + 1, self._blocks)

    def _path(self, block: int) -> Path:
        return self._folder / f"block-{block:03}.safetensors"


def search_fingerprint(model_digest: str, texts: Sequence[Sequence[int]], group_size: int) -> str:
    """A digest of all that the results depend on."""
    parts = [model_digest, [list(ids) for ids in texts], group_size, SEARCH_TOKENS, _CLIP_TOKENS]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def create_quantizer(scales: dict[str, torch.Tensor], kept: KeptResults) -> type:
    """AutoAWQ's quantizer with our searches; the scales of the projections go to ``scales``, for adapters."""
    from awq.quantize.quantizer import AwqQuantizer

    return type("KeepingQuantizer", (_Searches, AwqQuantizer), {"scales_found": scales, "kept": kept})


class _Searches:
    """Methods in place of those of AutoAWQ's quantizer, the next class in the order of resolution."""

    scales_found: dict[str, torch.Tensor]
    kept: KeptResults
    modules: Any
    group_size: int
    pseudo_quantize_tensor: Any
    _block = 0
    _names: dict[int, str]

    def _search_best_scale(self, module: Any, prev_op: Any, layers: Any, *args: Any, **kwargs: Any) -> Any:
        """AutoAWQ applies the scale that is returned, and then discards it."""
        from awq.utils.module import get_op_name

        number = self._number_of(module)
        before, after = get_op_name(module, prev_op), tuple(get_op_name(module, m) for m in layers)
        search: Any = super()._search_best_scale  # type: ignore[misc]
        scale = self.kept.find(
            number, f"scale {before}", lambda: search(module, prev_op, layers, *args, **kwargs)[2]
        )
        for name in after:
            self.scales_found[f"model.layers.{number}.{name}.inputs"] = scale.float().reshape(-1).clone()
        if before.endswith("_proj"):
            self.scales_found[f"model.layers.{number}.{before}.outputs"] = 1 / scale.float().reshape(-1)
        return before, after, scale

    def _compute_best_scale(
        self, x: Any, w_mean: Any, x_mean: Any, module2inspect: Any, linears2scale: Any, fp16_output: Any,
        kwargs: Any = None,
    ) -> Any:  # fmt: skip
        x, fp16_output, kwargs = some_tokens(x, fp16_output, kwargs or {})
        search: Any = super()._compute_best_scale  # type: ignore[misc]
        return search(x, w_mean, x_mean, module2inspect, linears2scale, fp16_output, kwargs)

    def _search_best_clip(self, layer: Any, named_linears: Any, input_feat: Any) -> Any:
        self._block = self._number_of(layer)
        self._names = {id(linear.weight): name for name, linear in named_linears.items()}
        found = super()._search_best_clip(layer, named_linears, input_feat)  # type: ignore[misc]
        self.kept.finish(self._block)
        return found

    def _compute_best_clip(self, w: Any, input_feat: Any, *_: Any, **__: Any) -> Any:
        return self.kept.find(
            self._block,
            f"clip {self._names[id(w)]}",
            lambda: best_clip(w, input_feat, self.group_size, lambda v: self.pseudo_quantize_tensor(v)[0]),
        )

    def _apply_quant(self, module: Any, named_linears: Any) -> None:
        """Replace the projections of a block by 4-bit ones."""
        from awq.utils.module import set_op_by_name

        for name, linear in named_linears.items():
            weight, scales, zeros = self.pseudo_quantize_tensor(linear.half().weight.data)
            linear.weight.data = weight
            set_op_by_name(module, name, packed_linear(linear, scales, zeros, self.group_size))

    def _number_of(self, module: Any) -> int:
        return next(number for number, layer in enumerate(self.modules) if layer is module)


def packed_linear(linear: torch.nn.Linear, scales: torch.Tensor, zeros: torch.Tensor, group_size: int) -> Any:
    """A rounded projection in 16 bits as AutoAWQ's 4-bit one; ``scales`` and ``zeros`` are [out, in/group].

    AutoAWQ packs column by column, in some ten thousand small operations for each projection: as long as the search.
    """
    from awq.modules.linear import WQLinear_GEMM

    bias = linear.bias
    found = WQLinear_GEMM(BITS, group_size, linear.in_features, linear.out_features, bias is not None, "cpu")
    found.scales = scales.t().contiguous().half()
    found.qweight = pack(encode(linear.weight.data, zeros.t(), found.scales))
    found.qzeros = pack(zeros.t().contiguous())
    found.bias = bias.data.half() if bias is not None else None
    return found


def some_tokens(
    x: torch.Tensor, output: torch.Tensor, kwargs: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """At most ``SEARCH_TOKENS`` of the tokens of a module's inputs ``x`` (texts, tokens, channels) and outputs.

    A module without arguments treats each token alone: they are taken evenly. Attention (with arguments) gets whole
    texts, at least one.
    """
    texts, length = x.shape[:2]
    if kwargs:
        count = max(1, SEARCH_TOKENS // length)
        fewer = {
            name: value[:count] if torch.is_tensor(value) and value.dim() and len(value) == texts else value
            for name, value in kwargs.items()
        }
        return x[:count], output[:count], fewer
    step = max(1, math.ceil(texts * length / SEARCH_TOKENS))
    rows, outputs = x.reshape(-1, x.shape[-1])[::step], output.reshape(-1, output.shape[-1])[::step]
    return rows[None].contiguous(), outputs[None].contiguous(), kwargs  # AutoAWQ takes `view`s of them


@torch.no_grad()
def best_clip(
    weights: torch.Tensor,
    inputs: torch.Tensor,
    group_size: int,
    rounded: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The bound for each group of ``weights`` (outputs, inputs) with the least error; shape (outputs, groups, 1).

    The mean squared error of a group's output over tokens x is d G d, with d the change of its weights and G the
    mean of x x: G is computed once, and a bound costs a product of matrices. AutoAWQ multiplies every token with
    every weight, element by element, for the same figures.
    """
    tokens = inputs.reshape(-1, inputs.shape[-1])
    tokens = tokens[:: max(1, len(tokens) // _CLIP_TOKENS)].float()
    grouped = tokens.view(len(tokens), -1, group_size).transpose(0, 1)  # groups, tokens, group
    gram = grouped.transpose(1, 2) @ grouped / grouped.shape[1]
    whole = weights.view(len(weights), -1, group_size)
    most = whole.abs().amax(dim=-1, keepdim=True)
    best, least = most.clone(), torch.full_like(most, float("inf"), dtype=torch.float32)
    for step in range(_CLIP_STEPS):
        bound = most * (1 - step / _CLIP_GRID)
        clipped = rounded(torch.clamp(whole, -bound, bound).reshape(weights.shape)).view_as(whole)
        change = (clipped - whole).float().transpose(0, 1)  # groups, outputs, group
        error = ((change @ gram) * change).sum(dim=-1).t()[..., None]
        better = error < least
        least[better], best[better] = error[better], bound[better]
    return best

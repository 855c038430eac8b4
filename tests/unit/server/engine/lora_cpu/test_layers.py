"""The LoRA products against a plain float64 reference, for any mix of rows."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.ccallback import CFunc
from vllm.lora.layers import LoRAMapping
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager, WorkerLoRAManager

from server.engine.lora_cpu import cpu_cache, fused_kernel
from server.engine.lora_cpu.fused_kernel import DTYPES as FUSED_DTYPES
from server.engine.lora_cpu.weights import pack_b
from server.engine.lora_cpu.wrapper import LoragatePunicaWrapperCPU

pytestmark = pytest.mark.slow  # compiles the loops

BASE = -1
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


@dataclass(frozen=True, slots=True)
class Layer:
    """LoRA weights of one layer as vLLM lays them out; empty slots and ranks above a slot's own are zero."""

    a: tuple[torch.Tensor, ...]
    b: tuple[torch.Tensor, ...]

    @property
    def output_slices(self) -> tuple[int, ...]:
        return tuple(part.shape[2] for part in self.b)

    @property
    def width(self) -> int:
        return self.a[0].shape[3]


def make_layer(
    ranks: list[int], max_rank: int, width: int, slices: list[int], dtype: torch.dtype, seed: int = 0
) -> Layer:
    """Random weights; `ranks[slot]` is the slot's own rank, 0 for an empty slot."""
    torch.manual_seed(seed)
    a = tuple(torch.zeros(len(ranks), 1, max_rank, width, dtype=dtype) for _ in slices)
    b = tuple(torch.zeros(len(ranks), 1, height, max_rank, dtype=dtype) for height in slices)
    for slot, rank in enumerate(ranks):
        for a_part, b_part in zip(a, b, strict=True):
            a_part[slot, 0, :rank] = torch.randn(rank, width).to(dtype)
            b_part[slot, 0, :, :rank] = torch.randn(b_part.shape[2], rank).to(dtype)
    return Layer(a, b)


def clone(layer: Layer) -> Layer:
    return Layer(tuple(part.clone() for part in layer.a), tuple(part.clone() for part in layer.b))


def make_wrapper(
    tokens: list[int],
    prompts: list[int] | None = None,
    slots: int = 64,
    kind: type[PunicaWrapperCPU] = LoragatePunicaWrapperCPU,
    dtype: torch.dtype = torch.float32,
    loops: bool = True,
) -> PunicaWrapperCPU:
    """Make a wrapper whose rows want the slots named; ids are 100 + slot. Without `loops`: torch's products."""
    prompts = tokens if prompts is None else prompts
    size = max(len(tokens), len(prompts))
    wrapper = kind(size, size, "cpu", lora_config=SimpleNamespace(lora_dtype=dtype))
    ids = [100 + slot for slot in range(slots)]
    as_ids = [0 if slot == BASE else 100 + slot for slot in tokens]
    prompt_ids = [0 if slot == BASE else 100 + slot for slot in prompts]
    mapping = LoRAMapping(tuple(as_ids), tuple(prompt_ids), is_prefill=True)
    wrapper.update_metadata(mapping, ids, slots + 1, 1000)
    if not loops:
        wrapper._token_plan = replace(wrapper._token_plan, scattered=None)
    return wrapper


def reference(y: torch.Tensor, x: torch.Tensor, layer: Layer, rows: list[int], scale: float) -> torch.Tensor:
    """Compute what must come out, in float64, row by row."""
    out = y.double().clone()
    for row, slot in enumerate(rows):
        offset = 0
        for a, b in zip(layer.a, layer.b, strict=True):
            if slot != BASE:
                h = a[slot, 0].double() @ x[row].double()
                out[row, offset : offset + b.shape[2]] += scale * (b[slot, 0].double() @ h)
            offset += b.shape[2]
    return out


def bound(y: torch.Tensor, x: torch.Tensor, layer: Layer, rows: list[int], scale: float) -> torch.Tensor:
    """Bound the rounding error of each output: a few units of the dtype on the sum of magnitudes."""
    magnitudes = Layer(tuple(part.abs() for part in layer.a), tuple(part.abs() for part in layer.b))
    return 4 * torch.finfo(y.dtype).eps * reference(y.abs(), x.abs(), magnitudes, rows, abs(scale)) + 1e-30


def assert_close(got: torch.Tensor, want: torch.Tensor, error: torch.Tensor) -> None:
    excess = (got.double() - want).abs() - error
    assert not bool((excess > 0).any()) and not bool(got.isnan().any()), f"too far off by {excess.max():.3g}"


@st.composite
def row_slots(draw: st.DrawFn, slots: int) -> list[int]:
    """Draw batches as they occur: long runs (prefill), single rows (decode), base rows, in any order."""
    slot = st.integers(BASE, slots - 1)
    length = st.one_of(st.just(1), st.integers(1, 40))
    runs = draw(st.lists(st.tuples(slot, length), min_size=1, max_size=24))
    return [which for which, count in runs for _ in range(count)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Layer, list[int], torch.dtype]:
    max_rank = draw(st.sampled_from([1, 3, 8, 16]))
    slots = draw(st.one_of(st.integers(1, 8), st.just(64)))
    ranks = draw(st.lists(st.integers(0, max_rank), min_size=slots, max_size=slots))
    # Packed layers repeat a height: q, k, v is a, b, b and gate, up is a, a.
    heights = st.lists(st.integers(1, 40), min_size=1, max_size=2)
    slices = [height for height in draw(heights) for _ in range(draw(st.integers(1, 3)))]
    dtype = draw(DTYPES)
    layer = make_layer(ranks, max_rank, draw(st.integers(1, 48)), slices, dtype, draw(st.integers(0, 99)))
    return layer, draw(row_slots(slots)), dtype


@settings(max_examples=examples(200), deadline=None)
@given(cases(), st.sampled_from([1.0, 0.5, -2.0]), st.integers(0, 3), st.booleans())
def test_linear_is_exact_for_any_mix(
    case: tuple[Layer, list[int], torch.dtype], scale: float, padding: int, loops: bool
) -> None:
    layer, rows, dtype = case
    wrapper = make_wrapper(rows, dtype=dtype, loops=loops)
    x = torch.randn(len(rows) + padding, layer.width, dtype=dtype)
    y = torch.randn(len(rows) + padding, sum(layer.output_slices), dtype=dtype)
    before = y.clone()
    padded = [*rows, *[BASE] * padding]
    want, error = reference(y, x, layer, padded, scale), bound(y, x, layer, padded, scale)
    wrapper.add_lora_linear(y, x, layer.a, layer.b, scale, layer.output_slices)
    assert_close(y, want, error)
    untouched = [row for row, slot in enumerate(padded) if slot == BASE]
    assert torch.equal(y[untouched], before[untouched]), "a base row changed"


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_threads_of_a_loop_share_all_of_it_out(threads: int, dtype: torch.dtype) -> None:
    """Real widths, rows of several adapters, and a `y` that is a part of something wider."""
    rows = [2, 0, BASE, 1, 2, 2, 0]
    layer = make_layer([16, 5, 16], 16, 896, [896, 128, 128], dtype)
    x, wide = torch.randn(7, 900, dtype=dtype)[:, :896], torch.randn(7, 1200, dtype=dtype)
    y, before = wide[:, :1152], wide.clone()
    want, error = reference(y, x, layer, rows, 1.0), bound(y, x, layer, rows, 1.0)
    wrapper = make_wrapper(rows, dtype=dtype)
    assert wrapper._token_plan.scattered is not None and dtype in FUSED_DTYPES
    found = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        wrapper.add_lora_linear(y, x, layer.a, layer.b, 1.0, (896, 128, 128))
    finally:
        torch.set_num_threads(found)
    assert_close(y, want, error)
    assert torch.equal(wide[:, 1152:], before[:, 1152:]) and torch.equal(wide[2], before[2])


@pytest.mark.parametrize("value", [1.00390625, 1.01171875, -3.4e38, 1e-40, float("inf"), float("nan")])
def test_a_loop_rounds_as_torch_does(value: float) -> None:
    layer = make_layer([1], 1, 1, [1], torch.bfloat16)
    layer.a[0].fill_(1)
    layer.b[0].fill_(0)
    y, x = torch.tensor([[value]], dtype=torch.bfloat16), torch.ones(1, 1, dtype=torch.bfloat16)
    want = y + torch.zeros(1, 1, dtype=torch.bfloat16)
    make_wrapper([0], dtype=torch.bfloat16).add_lora_linear(y, x, layer.a, layer.b, 1.0, (1,))
    assert torch.equal(y.view(torch.int16), want.view(torch.int16)) or bool(y.isnan() & want.isnan())


def test_loops_are_compiled_also_where_nothing_may_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(CFunc, "enable_caching", refuse)
    assert fused_kernel._layer.__wrapped__(torch.float32).value


@settings(max_examples=examples(60), deadline=None)
@given(cases())
def test_shrink_then_expand_is_the_same_product(case: tuple[Layer, list[int], torch.dtype]) -> None:
    layer, rows, dtype = case
    wrapper = make_wrapper(rows, dtype=dtype)
    x = torch.randn(len(rows), layer.width, dtype=dtype)
    y = torch.randn(len(rows), sum(layer.output_slices), dtype=dtype)
    want, error = reference(y, x, layer, rows, 0.5), bound(y, x, layer, rows, 0.5)
    buffers = torch.zeros(len(layer.a), len(rows), layer.a[0].shape[2], dtype=torch.float32)
    wrapper.add_shrink(buffers, x, layer.a, 0.5)
    wrapper.add_expand(y, buffers, layer.b, layer.output_slices, offset_start=0, add_input=True)
    assert_close(y, want, error)


@settings(max_examples=examples(40), deadline=None)
@given(cases())
def test_expand_replaces_adapter_rows_only(case: tuple[Layer, list[int], torch.dtype]) -> None:
    layer, rows, dtype = case
    wrapper = make_wrapper(rows, dtype=dtype)
    x = torch.randn(len(rows), layer.width, dtype=dtype)
    y = torch.randn(len(rows), sum(layer.output_slices), dtype=dtype)
    start = torch.where(torch.tensor(rows).unsqueeze(1) == BASE, y, torch.zeros_like(y))
    want, error = reference(start, x, layer, rows, 1.0), bound(start, x, layer, rows, 1.0)
    wrapper.add_lora_linear(y, x, layer.a, layer.b, 1.0, layer.output_slices, add_inputs=False)
    assert_close(y, want, error)


@settings(max_examples=examples(60), deadline=None)
@given(st.data(), DTYPES, st.sampled_from([-3, 0, 2]))
def test_logits_use_the_sampled_rows_and_drop_padding(
    data: st.DataObject, dtype: torch.dtype, extra: int
) -> None:
    prompts = data.draw(row_slots(4))
    layer = make_layer([4, 2, 0, 3], 4, 12, [30], dtype)
    wrapper = make_wrapper([0] * 50, prompts, dtype=dtype)
    hidden = torch.randn(len(prompts), 12, dtype=dtype)
    logits = torch.randn(len(prompts), 30 + extra)
    common = min(30, 30 + extra)
    cut = Layer(layer.a, tuple(part[:, :, :common] for part in layer.b))
    want = logits.double().clone()
    want[:, :common] = reference(logits[:, :common], hidden, cut, prompts, 1.0)
    error = bound(logits[:, :common].to(dtype), hidden, cut, prompts, 1.0)
    wrapper.add_lora_logits(logits, hidden, layer.a[0], layer.b[0], 1.0)
    assert_close(logits[:, :common], want[:, :common], error)
    assert torch.equal(logits[:, common:].double(), want[:, common:])


@settings(max_examples=examples(40), deadline=None)
@given(st.data(), DTYPES)
def test_embedding_expands_each_row_by_its_own_adapter(data: st.DataObject, dtype: torch.dtype) -> None:
    rows = data.draw(row_slots(4))
    layer = make_layer([4, 2, 0, 3], 4, 4, [16], dtype)
    wrapper = make_wrapper(rows, dtype=dtype)
    picked = torch.randn(len(rows), 4, dtype=dtype)
    y = torch.randn(len(rows), 16, dtype=dtype)
    identity = torch.eye(4, dtype=dtype).expand(4, 1, 4, 4).contiguous()
    plain = Layer((identity,), layer.b)
    want, error = reference(y, picked, plain, rows, 1.0), bound(y, picked, plain, rows, 1.0)
    wrapper.add_lora_embedding(y, picked, layer.b[0], add_input=True)
    assert_close(y, want, error)


def test_weights_of_another_dtype_are_widened() -> None:
    layer = make_layer([4, 4, 4], 4, 12, [20], torch.float32)
    rows = [0, 1, 2, BASE, 0]
    x = torch.randn(5, 12, dtype=torch.bfloat16)
    y = torch.randn(5, 20, dtype=torch.bfloat16)
    want, error = reference(y, x, layer, rows, 1.0), bound(y, x, layer, rows, 1.0)
    make_wrapper(rows).add_lora_linear(y, x, layer.a, layer.b, 1.0, layer.output_slices)
    assert_close(y, want, error)


@pytest.mark.parametrize("inference_mode", [False, True])
def test_a_swap_is_seen_at_once(inference_mode: bool) -> None:
    """vLLM writes new adapters into the tensors that it made; those look into our storage."""
    layer = make_layer([8, 8, 8, 8], 8, 24, [20, 12, 12], torch.float32)
    rows = [0, 1, 2, 3, 1, BASE, 2]
    wrapper = make_wrapper(rows)
    x = torch.randn(len(rows), 24)
    for seed in range(3):
        fresh = make_layer([8, 5, 8, 0], 8, 24, [20, 12, 12], torch.float32, seed)
        for mine, new in zip(layer.a + layer.b, fresh.a + fresh.b, strict=True):
            for slot in range(4):
                mine[slot] = 0
                mine[slot, 0, : new.shape[2], : new.shape[3]].copy_(new[slot, 0])
        y = torch.zeros(len(rows), 44)
        with torch.inference_mode(inference_mode):
            wrapper.add_lora_linear(y, x, layer.a, layer.b, 1.0, layer.output_slices)
        assert_close(y, reference(y * 0, x, fresh, rows, 1.0), bound(y * 0, x, fresh, rows, 1.0))
        for mine, new in zip(layer.a + layer.b, fresh.a + fresh.b, strict=True):
            assert torch.equal(mine, new), "packing changed what vLLM reads"


def test_replaced_tensors_are_packed_again() -> None:
    layer = make_layer([4, 4], 4, 8, [6], torch.float32)
    rows = [0, 1, 0, 1, BASE]
    wrapper = make_wrapper(rows)
    x = torch.randn(5, 8)
    wrapper.add_lora_linear(torch.zeros(5, 6), x, layer.a, layer.b, 1.0, (6,))
    fresh = make_layer([4, 4], 4, 8, [6], torch.float32, seed=1)
    for mine, new in zip(layer.a + layer.b, fresh.a + fresh.b, strict=True):
        mine.set_(new.clone())
    y = torch.zeros(5, 6)
    wrapper.add_lora_linear(y, x, layer.a, layer.b, 1.0, (6,))
    assert_close(y, reference(y * 0, x, fresh, rows, 1.0), bound(y * 0, x, fresh, rows, 1.0))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("more", [[], [*[1] * 20, *[2] * 20, BASE]], ids=["few", "many"])
def test_a_broken_adapter_spoils_its_own_rows_only(more: list[int], poison: float) -> None:
    rows = [0, 1, 2, 3, 1, BASE, 2, *more]
    layer = make_layer([4] * 4, 4, 12, [10, 6], torch.float32)
    clean = clone(layer)
    for part in layer.a + layer.b:
        part[2] = poison
    x = torch.randn(len(rows), 12)
    y, want = torch.zeros(len(rows), 16), torch.zeros(len(rows), 16)
    make_wrapper(rows).add_lora_linear(y, x, layer.a, layer.b, 1.0, (10, 6))
    make_wrapper(rows).add_lora_linear(want, x, clean.a, clean.b, 1.0, (10, 6))
    others = [row for row, slot in enumerate(rows) if slot != 2]
    assert torch.equal(y[others], want[others])
    assert not bool(y[rows.index(2)].isfinite().any())


def test_nothing_happens_before_the_first_mapping() -> None:
    layer = make_layer([4, 4], 4, 8, [6], torch.float32)
    y = torch.ones(5, 6)
    LoragatePunicaWrapperCPU(8, 8, "cpu").add_lora_linear(y, torch.ones(5, 8), layer.a, layer.b, 1.0, (6,))
    assert torch.equal(y, torch.ones(5, 6))


def test_fewer_rows_than_mapped_are_refused() -> None:
    layer = make_layer([4, 4], 4, 8, [6], torch.float32)
    with pytest.raises(ValueError, match="covers 4 rows, but the layer got 3"):
        make_wrapper([0, 1, 0, 1]).add_lora_linear(
            torch.ones(3, 6), torch.ones(3, 8), layer.a, layer.b, 1.0, (6,)
        )


@pytest.mark.parametrize("kind", [PunicaWrapperCPU, LoragatePunicaWrapperCPU])
def test_why_this_module_exists(kind: type[PunicaWrapperCPU]) -> None:
    """vLLM's own class gives the last slot's adapter to base rows; if that ends, this test says so."""
    layer = make_layer([4, 4, 4], 4, 8, [6], torch.float32)
    rows = [0, BASE, 1]
    wrapper = make_wrapper(rows, slots=3, kind=kind)
    x, y = torch.randn(3, 8), torch.zeros(3, 6)
    wrapper.add_lora_linear(y, x, layer.a, layer.b, 1.0, layer.output_slices)
    bled = torch.allclose(y[1], layer.b[0][2, 0] @ (layer.a[0][2, 0] @ x[1]), atol=1e-4)
    assert bled == (kind is PunicaWrapperCPU)


def test_what_is_loaded_lies_as_the_slots_want_it() -> None:
    weights = LoRALayerWeights("q", 4, 8, torch.randn(4, 12), torch.randn(10, 4))
    seen = weights.lora_b.clone()
    cpu_cache.transpose_b(LoRAModel(1, 4, {"q": weights}))
    assert torch.equal(weights.lora_b, seen) and weights.lora_b.t().is_contiguous()
    weights.optimize()
    assert torch.equal(weights.lora_b, 2 * seen) and weights.lora_b.t().is_contiguous(), "scaled in place"
    layer = make_layer([4], 4, 12, [10], torch.float32)
    slot = pack_b(layer.b).stacked[0, 0]
    assert slot.stride() == weights.lora_b.stride(), "so a swap is a copy of memory"


def test_every_adapter_that_vllm_loads_is_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: both of vLLM's managers load through this method, and installing twice wraps once."""
    weights = LoRALayerWeights("q", 4, 4, torch.randn(4, 12), torch.randn(10, 4))
    monkeypatch.setattr(
        WorkerLoRAManager, "_load_adapter", lambda self, request: LoRAModel(1, 4, {"q": weights})
    )
    cpu_cache.install()
    once = WorkerLoRAManager._load_adapter
    cpu_cache.install()
    assert WorkerLoRAManager._load_adapter is once
    assert "_load_adapter" not in vars(LRUCacheWorkerLoRAManager)
    assert "self._load_adapter(" in inspect.getsource(LRUCacheWorkerLoRAManager.add_adapter)
    once(None, None)
    assert weights.lora_b.t().is_contiguous()

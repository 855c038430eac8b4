"""A layer gives the same for few rows, which a loop multiplies, and for many, which torch does."""

from __future__ import annotations

import pytest
import torch

from server.engine.linears_cpu import integer_weights, packed_linear
from server.engine.linears_cpu.capability import computes_four_bits
from server.engine.linears_cpu.packed_linear import PackedLinear, dense_linear, fastest_rows, integer_linear

pytestmark = pytest.mark.slow  # compiles the loops


def make_linear(kind: str) -> tuple[PackedLinear, torch.Tensor]:
    """A layer and its weights."""
    weight = torch.randn(1040, 256).bfloat16().float() * 0.125
    if kind == "dense":
        linear = dense_linear(weight)
        assert linear is not None
        return linear, weight
    rounded = integer_linear(integer_weights.round_to_eight_bits(weight))
    exact = torch.empty_like(weight)
    rounded.loop.unpack(0, 1040, exact)
    return rounded, exact


KINDS = ["dense"] + (["eight bits"] if computes_four_bits() else [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 15, 200])
def test_few_and_many_rows(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "UNPACKED_BYTES", 128 * 256 * 4)  # several tiles, the last one smaller
    packed_linear._scratch.cache_clear()
    linear, weight = make_linear(kind)
    x, bias = torch.randn(rows, 256), torch.randn(1040)
    wanted = x @ weight.t() + bias
    assert torch.allclose(linear(x, bias), wanted, rtol=1e-3, atol=1e-3)
    assert torch.allclose(linear(x, None), wanted - bias, rtol=1e-3, atol=1e-3)
    packed_linear._scratch.cache_clear()


def test_any_layout_and_type_of_the_rows() -> None:
    linear, weight = make_linear("dense")
    x = torch.randn(256, 6)
    assert torch.allclose(linear(x.t(), None), x.t() @ weight.t(), rtol=1e-4, atol=1e-4)
    deep = torch.randn(2, 3, 256).bfloat16()
    found = linear(deep, None)
    assert found.dtype == torch.bfloat16 and found.shape == (2, 3, 1040)
    assert torch.allclose(found.float(), deep.float() @ weight.t(), rtol=1e-2, atol=1e-2)
    wide = torch.randn(4, 512)
    assert torch.equal(linear(wide[:, :256], None), linear(wide[:, :256].contiguous(), None))
    assert linear(torch.empty(0, 256), None).shape == (0, 1040)


def test_the_loop_is_used_as_long_as_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, _ = make_linear("dense")

    def times(call: object, x: torch.Tensor) -> float:
        return 1.0 if call is linear else {16: 5.0, 32: 1.5, 64: 0.5, 128: 2.0}[len(x)]

    monkeypatch.setattr(packed_linear, "_best_s", times)
    other = PackedLinear(1040, 256, linear.loop, 0)
    assert fastest_rows(linear, other) == 32
    monkeypatch.setattr(packed_linear, "_best_s", lambda call, x: float(call is linear))
    assert fastest_rows(linear, other) == 15

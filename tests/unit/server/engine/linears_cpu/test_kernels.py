"""The compiled loops against products in float64."""

from __future__ import annotations

import pytest
import torch
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.linears_cpu import integer_weights
from server.engine.linears_cpu.capability import computes_four_bits
from server.engine.linears_cpu.dense_kernel import DenseLoop, pack
from server.engine.linears_cpu.integer_kernel import IntegerLoop
from server.engine.linears_cpu.integer_weights import IntegerWeights
from server.engine.linears_cpu.packed_linear import Loop

pytestmark = pytest.mark.slow  # compiles the loops
needs_avx2 = pytest.mark.skipif(
    not computes_four_bits(), reason="this CPU has vLLM's own kernel of 4-bit weights"
)

ROWS = st.integers(1, 21)
SEEDS = st.integers(0, 2**31)


def make_four_bits(outputs: int, inputs: int, group: int) -> tuple[IntegerWeights, torch.Tensor]:
    """Random packed weights, and what they stand for, float64 [outputs, inputs]."""
    codes = torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8)
    zeros = torch.randint(0, 16, (outputs, inputs // group), dtype=torch.uint8)
    scales = torch.rand(outputs, inputs // group) * 0.1
    groups = (codes.double().view(outputs, -1, group) - zeros.double()[..., None]) * scales.double()[
        ..., None
    ]
    return integer_weights.pack_four_bits(codes, zeros, scales), groups.view(outputs, inputs)


def product(loop: Loop, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    y = torch.full((len(x), len(bias)), float("nan"))
    loop.multiply(x, bias, y)
    return y


def make_dense(weight: torch.Tensor) -> DenseLoop:
    packed = pack(weight)
    assert packed is not None and packed.element_size() == 2
    return DenseLoop(packed)


def make_loops() -> list[Loop]:
    """Each kind of loop with 64 outputs and 128 inputs."""
    dense = make_dense(torch.randn(64, 128).bfloat16())
    return [dense, *([IntegerLoop(make_four_bits(64, 128, 64)[0])] if computes_four_bits() else [])]


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@settings(max_examples=examples(40), deadline=None)
@given(rows=ROWS, outputs=st.integers(1, 40), inputs=st.integers(1, 40), seed=SEEDS)
def test_the_dense_loop_multiplies_as_float32_does(rows: int, outputs: int, inputs: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(4 * outputs, 16 * inputs).bfloat16()
    x, bias = torch.randn(rows, 16 * inputs), torch.randn(4 * outputs)
    wanted = x.double() @ weight.double().t() + bias.double()
    assert relative_error(product(make_dense(weight.float()), x, bias), wanted) < 1e-6


@needs_avx2
@settings(max_examples=examples(40), deadline=None)
@given(
    rows=ROWS,
    outputs=st.integers(1, 20),
    groups=st.integers(1, 9),
    group=st.sampled_from([64, 128]),
    seed=SEEDS,
)
def test_the_loop_of_four_bits_is_closer_than_bfloat16(
    rows: int, outputs: int, groups: int, group: int, seed: int
) -> None:
    torch.manual_seed(seed)
    packed, weight = make_four_bits(4 * outputs, groups * group, group)
    x, bias = torch.randn(rows, groups * group), torch.zeros(4 * outputs)
    wanted = x.double() @ weight.t()
    rounding = relative_error(x.bfloat16().double() @ weight.t(), wanted)
    found = relative_error(product(IntegerLoop(packed), x, bias), wanted)
    assert found < 6e-5 and found < rounding / 10


@needs_avx2
@settings(max_examples=examples(40), deadline=None)
@given(rows=ROWS, outputs=st.integers(1, 20), groups=st.integers(1, 9), seed=SEEDS)
def test_the_loop_of_eight_bits(rows: int, outputs: int, groups: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(4 * outputs, groups * 128) * 0.02
    packed = integer_weights.round_to_eight_bits(weight)
    x, bias = torch.randn(rows, groups * 128), torch.randn(4 * outputs)
    rounded = torch.empty_like(weight)
    IntegerLoop(packed).unpack(0, 4 * outputs, rounded)
    largest = weight.view(-1, 128).abs().amax(1)
    assert ((rounded - weight).view(-1, 128).abs().amax(1) <= largest / 127 / 2 * 1.001).all()
    wanted = x.double() @ rounded.double().t() + bias.double()
    assert relative_error(product(IntegerLoop(packed), x, bias), wanted) < 6e-5


def test_unpacking_gives_the_weights_back() -> None:
    weight = torch.randn(40, 64).bfloat16().float()
    found = torch.empty(12, 64)
    make_dense(weight).unpack(8, 20, found)
    assert torch.equal(found, weight[8:20])
    packed_four, exact = make_four_bits(40, 256, 64)
    found = torch.empty(12, 256)
    IntegerLoop(packed_four).unpack(8, 20, found)
    assert torch.allclose(found.double(), exact[8:20], rtol=1e-6, atol=0)


@pytest.mark.parametrize("rows", [2, 4, 7])
def test_a_rows_result_is_the_same_alone_and_beside_others(rows: int) -> None:
    """A request's tokens do not depend on who else is served."""
    x, bias = torch.randn(rows, 128), torch.randn(64)
    for loop in make_loops():
        together = product(loop, x, bias)
        for row in range(rows):
            assert torch.equal(product(loop, x[row : row + 1], bias)[0], together[row])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_row(value: float) -> None:
    x, bias = torch.randn(5, 128), torch.zeros(64)
    x[2, 70] = value
    for loop in make_loops():
        finite = product(loop, x, bias).isfinite().all(1)
        assert finite.tolist() == [True, True, False, True, True]


@needs_avx2
def test_zeros_and_tiny_inputs_give_the_bias() -> None:
    four_bits, _ = make_four_bits(64, 128, 64)
    bias = torch.randn(64)
    x = torch.zeros(2, 128)
    x[1, 3] = 1e-42  # a denormal number, whose inverse is infinite
    found = product(IntegerLoop(four_bits), x, bias)
    assert torch.equal(found, bias.expand(2, -1))


@pytest.mark.parametrize("shape", [(6, 64), (8, 24)])
def test_other_shapes_and_values_are_not_packed(shape: tuple[int, int]) -> None:
    assert pack(torch.zeros(shape)) is None
    assert pack(torch.full((8, 64), 1.001)) is None
    assert not integer_weights.can_pack(*shape, 64)

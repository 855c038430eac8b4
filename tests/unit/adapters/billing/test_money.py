"""Money is exact: what people write, and what is counted."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.billing.money import (
    cents_text,
    from_micros,
    nanos_text,
    picos_text,
    price_micros,
    read_money,
    to_micros,
    to_nanos,
)
from adapters.errors import BadValue


@pytest.mark.parametrize(
    ("written", "micros"),
    [("0.50", 500_000), (2, 2_000_000), (0.1, 100_000), ("999999999", 999_999_999 * 10**6), ("0.000001", 1)],
)
def test_what_is_written_is_what_is_kept(written: object, micros: int) -> None:
    assert to_micros(read_money(written)) == micros
    assert to_nanos(read_money(written)) == micros * 1000
    assert read_money(str(from_micros(micros))) == read_money(written)


@pytest.mark.parametrize(
    "written", ["-1", "0.0000001", "1e9", "nan", "inf", "", "1,5", True, None, [1], 1e-7, "1e999999"]
)
def test_what_is_no_amount_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"is no amount|is not in range"):
        read_money(written)
    with pytest.raises(
        BadValue, match=r"prompt is .*; set it to an amount from 0 to 999999999 per million tokens"
    ):
        price_micros("prompt", written)


def test_amounts_have_no_exponent_and_no_zeros_at_their_end() -> None:
    assert [picos_text(picos) for picos in (0, 1, 10**12, 25 * 10**11)] == ["0", "0.000000000001", "1", "2.5"]
    assert nanos_text(100 * 10**9) == "100" and nanos_text(1) == "0.000000001"
    assert str(from_micros(1)) == "0.000001" and str(from_micros(10**15)) == "1000000000"


@settings(max_examples=examples(200), deadline=None)
@given(st.integers(0, 10**24))
def test_cents_are_rounded_half_to_even(picos: int) -> None:
    assert Fraction(cents_text(picos)) == Fraction(round(Fraction(picos, 10**10)), 100)


@settings(max_examples=examples(200), deadline=None)
@given(st.integers(0, 10**27))
def test_the_text_of_a_cost_is_exact(picos: int) -> None:
    assert Fraction(picos_text(picos)) == Fraction(picos, 10**12)


def test_large_amounts_stay_exact() -> None:
    assert to_micros(Decimal("123456789.123456")) == 123_456_789_123_456

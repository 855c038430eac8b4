"""Amounts of money, exact in three units of the currency.

Decimal          what people read and write, with at most six decimals
micros (1e-6)    budgets, and prices per million tokens, in the database
nanos  (1e-9)    what admission reserves and what servers lease, rounded up for each request
picos  (1e-12)   costs: tokens x micros per million tokens, without any rounding
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from adapters.errors import BadValue

_DECIMALS: Final = 6
#: The largest amount: in nanos it still fits into 64 bits.
MAX_MONEY: Final = Decimal(10**9 - 1)
MONEY_RANGE: Final = f"an amount from 0.000001 to {MAX_MONEY}, with at most six decimals"


def read_money(value: Any) -> Decimal:
    """An amount that someone wrote, as text or a number. Raises: ValueError: not a number, or not in MONEY_RANGE.

    A float is read as it is written: 0.1 is exactly one tenth. Zeros at the end are dropped.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError(f"{value!r:.80} is no amount")
    try:
        amount = Decimal(str(value).strip())
    except InvalidOperation as error:
        raise ValueError(f"{value!r:.80} is no amount") from error
    if not amount.is_finite() or not 0 <= amount <= MAX_MONEY or amount != round(amount, _DECIMALS):
        raise ValueError(f"{value!r:.80} is not in range")
    return Decimal(_text(amount))


Money = Annotated[Decimal, BeforeValidator(read_money), Field(gt=0, strict=False)]
"""A field of a pydantic model that is an amount above 0."""


def price_micros(name: str, value: Any) -> int:
    """A price per million tokens in micros; 0 is free. Raises: BadValue."""
    try:
        return to_micros(read_money(value))
    except ValueError as error:
        raise BadValue(
            f"{name} is {value!r:.80}; set it to an amount from 0 to {MAX_MONEY} per million tokens, with at most "
            "six decimals."
        ) from error


def to_micros(amount: Decimal) -> int:
    """The amount in 1e-6 of the currency; exact for what `read_money` returns."""
    return int(amount.scaleb(6))


def from_micros(micros: int) -> Decimal:
    """The amount, without zeros at its end: 2500000 is 2.5."""
    return Decimal(_text(Decimal(micros).scaleb(-6)))


def to_nanos(amount: Decimal) -> int:
    """The amount in 1e-9 of the currency."""
    return to_micros(amount) * 1000


def nanos_text(nanos: int) -> str:
    """The exact amount as people write it, without zeros at its end."""
    return _text(Decimal(nanos).scaleb(-9))


def picos_text(picos: int) -> str:
    """The exact amount as people write it, without zeros at its end."""
    return _text(Decimal(f"{picos}E-12"))


def cents_text(picos: int) -> str:
    """The amount with two decimals, as on a bill; half a cent is rounded to the even one."""
    cents, rest = divmod(picos, 10**10)
    cents += rest > 5 * 10**9 or (rest == 5 * 10**9 and cents % 2 == 1)
    return f"{cents // 100}.{cents % 100:02}"


def _text(amount: Decimal) -> str:
    """Without an exponent, which `str` writes for small amounts."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text

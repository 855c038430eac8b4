"""The settings of a tenant and the limits of a key: one model for record, admin API's body and CLI's flags."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from adapters.billing.money import MONEY_RANGE, Money
from adapters.errors import BadValue

logger = logging.getLogger("loragate.registry")

_Weight = Annotated[float, Field(ge=0.001, le=1000)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=1, lt=2**31)]

_COUNT_RANGE = f"a whole number from 1 to {2**31 - 1}, or null for no limit"
_RANGES = {
    "weight": "a number from 0.001 to 1000",
    "kv_guarantee": "a share from 0 to 1",
    "kv_limit": "a share above 0 and up to 1",
    **dict.fromkeys(("max_concurrency", "rpm", "tpm", "token_budget"), _COUNT_RANGE),
    "money_budget": f"{MONEY_RANGE}, or null for no limit",
    "budget_period": "day or month",
    **dict.fromkeys(("sampling_defaults", "limits"), "an object of names and values"),
    "records": "an object with share (above 0, up to 1) and patterns, or null to keep no records",
}
#: What a limit becomes that a database row has out of its range.
_STRICTEST: Mapping[str, Any] = {_COUNT_RANGE: 1, _RANGES["money_budget"]: Decimal("0.000001")}


class BudgetPeriod(StrEnum):
    """The calendar period (UTC) after which a token budget starts anew."""

    DAY = "day"
    MONTH = "month"


_MAX_PATTERNS, _MAX_PATTERN_CHARS = 20, 200
_Pattern = Annotated[str, Field(strict=True, min_length=1, max_length=_MAX_PATTERN_CHARS)]


class RecordSettings(BaseModel):
    """Which part of a tenant's requests is kept with its answers, and what is removed from them beside the usual."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share: float = Field(1.0, gt=0, le=1, strict=True)
    """The part of the requests that the server chooses by chance."""
    patterns: Annotated[tuple[_Pattern, ...], Field(max_length=_MAX_PATTERNS)] = ()
    """Regular expressions of what is replaced; `server.usage.records.redaction.check_patterns` checks them."""


class TenantSettings(BaseModel):
    """A tenant's share of the engine, its limits and its decoding defaults; an instance is always valid.

    Build it from values of unknown quality with `parse`, whose error is a sentence. None means no limit. The
    descriptions are the help texts of the CLI's flags.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    weight: _Weight = Field(1.0, description="Share of the engine's time against other tenants.")
    kv_guarantee: _Share = Field(
        0.0, description="Share of the KV cache it always gets when it has work (0 to 1)."
    )
    kv_limit: _Share = Field(1.0, gt=0, description="Share of the KV cache it never exceeds (0 to 1).")
    max_concurrency: _Count | None = Field(None, description="Most sequences at the same time.")
    rpm: _Count | None = Field(None, description="Most requests per minute.")
    tpm: _Count | None = Field(None, description="Most tokens per minute.")
    token_budget: _Count | None = Field(None, description="Most tokens per --budget-period.")
    money_budget: Money | None = Field(
        None, description="Most that its tokens may cost per --budget-period, such as 250.00."
    )
    budget_period: BudgetPeriod = Field(
        BudgetPeriod.MONTH, strict=False, description="Period of --token-budget and --money-budget."
    )
    sampling_defaults: dict[str, Any] = Field(default_factory=dict)
    limits: dict[str, Any] = Field(default_factory=dict)
    records: RecordSettings | None = Field(None, strict=False)

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.kv_guarantee > self.kv_limit:
            raise ValueError(
                f"kv_guarantee {self.kv_guarantee:g} is above kv_limit {self.kv_limit:g}; "
                "raise kv_limit or lower kv_guarantee."
            )
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Settings from names and values. Raises: BadValue: the first fault, with value, range and next step."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise BadValue(_sentence(error.errors()[0])) from error

    @classmethod
    def read(cls, tenant: str, row: Mapping[str, Any]) -> Self:
        """Settings from a database row, which an older release or a hand may have written.

        A value out of its range must not stop the server: it is logged and replaced, a limit by 1 (the strictest)
        and any other setting by its default, until an operator sets it.
        """
        values = {name: row[name] for name in cls.model_fields}
        try:
            return cls(**values)
        except ValidationError as error:
            for fault in error.errors():
                logger.warning("The registry has a bad setting of tenant %s: %s", tenant, _sentence(fault))
                name = str(fault["loc"][0]) if fault["loc"] else "kv_guarantee"
                default = cls.model_fields[name].get_default(call_default_factory=True)
                values[name] = _STRICTEST.get(_RANGES[name], default)
        return cls.read(tenant, values)

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """These settings with some changed, checked together. Raises: BadValue."""
        return self.parse({**dict(self), **changes})


class KeyLimits(BaseModel):
    """The limits of one key, beside those of its tenant: a request must be within both. None means no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    max_concurrency: _Count | None = Field(None, description="Most sequences of the key at the same time.")
    rpm: _Count | None = Field(None, description="Most requests of the key per minute.")
    tpm: _Count | None = Field(None, description="Most tokens of the key per minute.")
    token_budget: _Count | None = Field(None, description="Most tokens of the key per --budget-period.")
    money_budget: Money | None = Field(
        None, description="Most that the key's tokens may cost per --budget-period, such as 25.00."
    )
    budget_period: BudgetPeriod = Field(
        BudgetPeriod.MONTH, strict=False, description="Period of --token-budget and --money-budget."
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Limits from names and values. Raises: BadValue: the first fault, with value, range and next step."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise BadValue(_sentence(error.errors()[0], "A key", "limit", cls.model_fields)) from error

    @classmethod
    def read(cls, key_id: str, stored: Mapping[str, Any]) -> Self:
        """Limits from the database; what no release has written is logged, and the key gets one request a minute."""
        try:
            return cls.parse(stored)
        except BadValue as error:
            logger.warning("The registry has a bad limit of key %s: %s", key_id, error)
            return cls(rpm=1)

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """These limits with some changed. Raises: BadValue."""
        return self.parse({**dict(self), **changes})


NO_KEY_LIMITS = KeyLimits()

UsageLimits = TenantSettings | KeyLimits
"""What both have: max_concurrency, rpm, tpm, token_budget, money_budget and budget_period."""


def _sentence(
    fault: ErrorDetails, owner: str = "A tenant", what: str = "setting", names: Iterable[str] = _RANGES
) -> str:
    if not fault["loc"]:
        return str(fault["ctx"]["error"])
    name = str(fault["loc"][0])
    if name not in names:
        return f"{owner} has no {what} {name!r}; use one of {', '.join(names)}."
    return f"{name} is {fault['input']!r:.80}; set it to {_RANGES[name]}."

"""The settings of a tenant: one model for the registry's record, the admin API's body and the CLI's flags."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

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
    "budget_period": "day or month",
    **dict.fromkeys(("sampling_defaults", "limits"), "an object of names and values"),
}


class BudgetPeriod(StrEnum):
    """The calendar period (UTC) after which a token budget starts anew."""

    DAY = "day"
    MONTH = "month"


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
    budget_period: BudgetPeriod = Field(
        BudgetPeriod.MONTH, strict=False, description="Period of --token-budget."
    )
    sampling_defaults: dict[str, Any] = Field(default_factory=dict)
    limits: dict[str, Any] = Field(default_factory=dict)

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
                values[name] = 1 if _RANGES[name] is _COUNT_RANGE else default
        return cls.read(tenant, values)

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """These settings with some changed, checked together. Raises: BadValue."""
        return self.parse({**dict(self), **changes})


def _sentence(fault: ErrorDetails) -> str:
    if not fault["loc"]:
        return str(fault["ctx"]["error"])
    name = str(fault["loc"][0])
    if name not in _RANGES:
        return f"A tenant has no setting {name!r}; use one of {', '.join(_RANGES)}."
    return f"{name} is {fault['input']!r:.80}; set it to {_RANGES[name]}."

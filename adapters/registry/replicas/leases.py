"""Leases in the database: servers hold parts of limits, and the parts never exceed a limit together.

PostgreSQL only; `adapters.registry.schema.lease_functions` has the functions, and says why the sum holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from adapters.registry.database import Database
from adapters.registry.replicas.membership import Membership


class LeaseKind(StrEnum):
    """What a part of is leased."""

    REQUESTS = "requests"
    """Of `rpm`."""
    TOKENS = "tokens"
    """Of `tpm`."""
    BUDGET = "budget"
    """Tokens of `token_budget`."""
    MONEY = "money"
    """Of `money_budget`, in 1e-9 of the currency."""
    SEQUENCES = "sequences"
    """Of `max_concurrency`: held while they run, never used up."""


@dataclass(frozen=True, slots=True)
class LeaseOrder:
    """What one server reports and asks for."""

    tenant: str
    """Whose limit: a tenant's name, or "key:" and a key's account."""
    kind: LeaseKind
    cap: int
    """The limit of all servers together."""
    period: str
    """What the limit is for: "minute", "day" or "month"; "none" for sequences."""
    used: int = 0
    """Of what it held: used since the last order."""
    back: int = 0
    """Of what it held: given back."""
    held: int | None = None
    """What it holds after that; None: what the database thinks."""
    need: int = 0
    """Less than this does not help: then nothing is granted."""
    want: int = 0
    """More than it needs is granted if there is enough for the others."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The answer to one order."""

    tenant: str
    kind: LeaseKind
    granted: int
    left: int
    """Of the limit, held by nobody and not used."""
    retry_s: float
    """When asking again may help; for rates to the moment."""


class LeaseStore:
    """The leases of this server."""

    def __init__(self, database: Database, membership: Membership) -> None:
        self._database = database
        self._membership = membership

    @property
    def known_away(self) -> bool:
        """Whether the database is known not to answer."""
        return self._database.known_away()

    async def exchange(self, sequence: int, orders: Sequence[LeaseOrder]) -> tuple[Granted, ...]:
        """Report and ask; in one call of the database.

        Args:
            sequence: numbers the batches of this server. A batch that may have been lost is sent again with its
                number; if it was not, it is not counted twice, and gets the same answer.
            orders: at most one for each tenant and kind.

        Raises: RegistryUnavailable.
        """
        call = sa.func.loragate_exchange_leases(
            self._membership.own.id,
            sequence,
            sa.cast([asdict(order) for order in orders], JSONB),
            type_=JSONB,
        )
        async with self._database.call() as connection:
            answers = (await connection.execute(sa.select(call))).scalar_one()
        return tuple(_granted(answer) for answer in answers)

    async def take_over(self) -> int:
        """Free what dead servers held; returns the number of leases that had something left.

        Raises: RegistryUnavailable.
        """
        if not self._membership.is_shared or not self._membership.can_judge:
            return 0
        living = [replica.id for replica in await self._membership.live()]
        call = sa.func.loragate_take_over_leases(sa.cast(living, ARRAY(sa.Text)))
        async with self._database.write() as connection:
            return int((await connection.execute(sa.select(call))).scalar_one())


def _granted(answer: dict[str, Any]) -> Granted:
    return Granted(**answer | {"kind": LeaseKind(answer["kind"])})

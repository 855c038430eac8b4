"""Proofs: before a version gets traffic, other servers are asked here whether they can load it, and answer here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from adapters.registry.database import Database
from adapters.registry.replicas.membership import Membership, seconds_since
from adapters.registry.schema import replica_tables

_P = replica_tables.proofs

#: A server that lives has this time to prove a version; then the promotion is refused.
PROOF_TIMEOUT_S = 60.0
#: Unanswered rows of promotions whose server died are deleted after this time.
_FORGET_AFTER_S = 3600.0


@dataclass(frozen=True, slots=True)
class ProofRequest:
    """One server is asked to prove one version."""

    id: str
    """The promotion's; one promotion can ask several servers for several versions."""
    replica: str
    tenant: str
    adapter: str
    version: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What a server answered."""

    replica: str
    version: int
    passed: bool
    reason: str
    """Why not: a sentence for the caller; empty where it passed."""


class Proofs:
    """The requests for proofs, and their answers."""

    def __init__(self, database: Database, membership: Membership) -> None:
        self._database = database
        self._membership = membership

    async def ask(self, requests: Iterable[ProofRequest]) -> None:
        """Ask servers. Raises: RegistryUnavailable."""
        rows = [
            {
                "id": request.id,
                "replica": request.replica,
                "tenant": request.tenant,
                "adapter": request.adapter,
                "version": request.version,
                "reason": "",
            }
            for request in requests
        ]
        if rows:
            async with self._database.write() as connection:
                await connection.execute(sa.insert(_P).values(asked_at=sa.func.now()), rows)

    async def asked(self) -> tuple[ProofRequest, ...]:
        """What this server is asked and has not answered. Raises: RegistryUnavailable."""
        mine = sa.and_(_P.c.replica == self._membership.own.id, _P.c.passed.is_(None))
        query = sa.select(_P.c.id, _P.c.replica, _P.c.tenant, _P.c.adapter, _P.c.version)
        query = query.where(mine, seconds_since(_P.c.asked_at) < PROOF_TIMEOUT_S)
        async with self._database.read() as connection:
            return tuple(ProofRequest(**row) for row in (await connection.execute(query)).mappings())

    async def answer(self, request: ProofRequest, reason: str) -> None:
        """Answer for this server; without a reason it passed. Raises: RegistryUnavailable."""
        this = sa.and_(
            _P.c.id == request.id, _P.c.replica == request.replica, _P.c.version == request.version
        )
        answered = sa.update(_P).where(this, _P.c.passed.is_(None)).values(passed=not reason, reason=reason)
        async with self._database.write() as connection:
            await connection.execute(answered)

    async def answers(self, proof_id: str) -> tuple[Proof, ...]:
        """The answers so far, by server and version. Raises: RegistryUnavailable."""
        query = sa.select(_P.c.replica, _P.c.version, _P.c.passed, _P.c.reason)
        query = query.where(_P.c.id == proof_id, _P.c.passed.is_not(None)).order_by(*_P.primary_key)
        async with self._database.read() as connection:
            return tuple(Proof(**row) for row in (await connection.execute(query)).mappings())

    async def withdraw(self, proof_id: str) -> None:
        """Delete the requests of a promotion that has ended. Raises: RegistryUnavailable."""
        async with self._database.write() as connection:
            await connection.execute(sa.delete(_P).where(_P.c.id == proof_id))

    async def forget(self) -> None:
        """Delete the requests of promotions whose server died. Raises: RegistryUnavailable."""
        async with self._database.write() as connection:
            await connection.execute(sa.delete(_P).where(seconds_since(_P.c.asked_at) > _FORGET_AFTER_S))

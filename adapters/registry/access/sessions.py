"""Sessions of people who signed in: 32 random bytes in a cookie, stored as SHA-256, with an end."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, fields
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import RowMapping

from adapters.errors import UnknownKey, UnknownTenant
from adapters.models import Actor, Role
from adapters.registry.access.keys import hash_secret
from adapters.registry.database import DatabasePart, utc_now
from adapters.registry.schema import session_tables, tables

_S = session_tables.sessions
#: Browsers in which one person is signed in at the same time.
MAX_PER_PERSON = 20


@dataclass(frozen=True, slots=True)
class Session:
    """A person who signed in, and what the person may do."""

    id: str
    account: str
    """What the person's usage is counted under, the same in all of the person's sessions."""
    name: str
    role: Role
    tenant: str | None
    """None: all tenants, as an operator."""
    read_only: bool
    settings_digest: str
    """The settings by which the role was given."""
    created_at: datetime
    expires_at: datetime

    @property
    def actor(self) -> Actor:
        """The person as the audit log shows it: no tenant and no shell has a name with such an end."""
        return Actor(f"{self.name} ({self.tenant or 'operator'})", self.id)


class Sessions(DatabasePart):
    """The registry's sessions."""

    async def add(self, session: Session) -> str:
        """Begin a session; returns its secret, which is stored nowhere. Sessions that are over are deleted, and of
        the person's others the oldest above MAX_PER_PERSON.

        Raises: UnknownTenant: there is no such tenant (any more).
        """
        secret = secrets.token_urlsafe(32)
        row = {field.name: getattr(session, field.name) for field in fields(session)}
        details = {"role": session.role, "tenant": session.tenant, "read_only": session.read_only}
        async with self._database.change(
            session.actor, "session.add", session.account, details
        ) as connection:
            await connection.execute(sa.delete(_S).where(_S.c.expires_at <= utc_now()))
            newest = sa.select(_S.c.id).where(_S.c.account == session.account)
            kept = newest.order_by(_S.c.created_at.desc()).limit(MAX_PER_PERSON - 1)
            await connection.execute(
                sa.delete(_S).where(_S.c.account == session.account, _S.c.id.not_in(kept))
            )
            known = sa.select(tables.tenants.c.name).where(tables.tenants.c.name == session.tenant)
            if session.tenant and (await connection.execute(known)).scalar_one_or_none() is None:
                raise UnknownTenant(session.tenant)
            await connection.execute(sa.insert(_S).values(sha256=hash_secret(secret), **row))
        return secret

    async def find(self, secret: str) -> Session:
        """The session with this secret that is not over. Raises: UnknownKey."""
        digest = hash_secret(secret)
        async with self._database.read() as connection:
            query = sa.select(_S).where(_S.c.sha256 == digest)
            row = (await connection.execute(query)).mappings().one_or_none()
        # As for keys: the index compares hashes, whose timing does not help to find a secret.
        if row is None or not hmac.compare_digest(row["sha256"], digest) or row["expires_at"] <= utc_now():
            raise UnknownKey
        return _session(row)

    async def list(self, tenant: str | None = None) -> tuple[Session, ...]:
        """The sessions that are not over, of one tenant's people or of all, oldest first."""
        query = sa.select(_S).where(_S.c.expires_at > utc_now()).order_by(_S.c.created_at, _S.c.id)
        if tenant is not None:
            query = query.where(_S.c.tenant == tenant)
        async with self._database.read() as connection:
            return tuple(_session(row) for row in (await connection.execute(query)).mappings())

    async def end_all(self, account: str, *, by: Actor, tenant: str | None = None) -> int:
        """End all sessions of a person, of a tenant's people only if one is given; returns how many they were."""
        of_person = sa.delete(_S).where(_S.c.account == account)
        if tenant is not None:
            of_person = of_person.where(_S.c.tenant == tenant)
        async with self._database.change(by, "session.end", account) as connection:
            return (await connection.execute(of_person)).rowcount

    async def end(self, session: Session) -> None:
        """End a session; nothing happens if it is over."""
        async with self._database.change(session.actor, "session.end", session.account) as connection:
            await connection.execute(sa.delete(_S).where(_S.c.id == session.id))


def _session(row: RowMapping) -> Session:
    values = {field.name: row[field.name] for field in fields(Session)}
    return Session(**values | {"role": Role(row["role"])})

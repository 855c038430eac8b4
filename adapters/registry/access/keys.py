"""Bearer keys: 32 random bytes, shown once, stored as SHA-256.

A plain SHA-256 is enough for a secret of 256 random bits, which no dictionary contains. The fixed keys of the demo
are the exception, and the demo binds to loopback only.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import BadValue, NameTaken, UnknownKey, UnknownTenant
from adapters.models import Actor, IssuedKey, Key, Role
from adapters.registry.database import DatabasePart, utc_now
from adapters.registry.schema import tables
from adapters.registry.schema.rows import records
from adapters.tenant_settings import NO_KEY_LIMITS, KeyLimits

_PREFIX_CHARS = 9  # "lg-" and six more: enough to identify a key, and 218 random bits stay secret
#: What `set` changes beside limits.
_RIGHTS = ("models", "expires_at", "note")


class Keys(DatabasePart):
    """The registry's keys."""

    async def issue(
        self,
        tenant: str | None,
        role: Role,
        *,
        by: Actor,
        models: Sequence[str] | None = None,
        expires_at: datetime | None = None,
        note: str = "",
        secret: str | None = None,
        limits: KeyLimits = NO_KEY_LIMITS,
    ) -> IssuedKey:
        """Create a key with a random secret, or with the given `secret` (the demo's keys).

        Raises: UnknownTenant; BadValue: role and tenant do not fit; NameTaken: this secret is in use.
        """
        if (tenant is None) != (role is Role.OPERATOR):
            raise BadValue(
                "An operator's key belongs to no tenant, and every other key to one; change the role or the tenant."
            )
        issued = _new_key(tenant, role, secret, models, expires_at, note, limits)
        try:
            async with self._database.change(
                by, "key.add", issued.key.id, {"tenant": tenant, "role": role}
            ) as connection:
                await _require_tenant(connection, tenant)
                await _insert(connection, issued.key)
        except IntegrityError as error:
            raise NameTaken("This key exists already; choose another secret.") from error
        return issued

    async def find(self, secret: str) -> Key:
        """The valid key with this secret. Raises: UnknownKey (also when expired or revoked)."""
        digest = hash_secret(secret)
        async with self._database.read() as connection:
            query = sa.select(tables.keys).where(tables.keys.c.sha256 == digest)
            row = (await connection.execute(query)).mappings().one_or_none()
        key = None if row is None else key_of(row)
        # The index compares hashes, not secrets, so its timing does not help to find a secret.
        if key is None or not hmac.compare_digest(key.sha256, digest) or not key.is_valid(utc_now()):
            raise UnknownKey
        return key

    async def get(self, key_id: str) -> Key:
        """Raises: UnknownKey."""
        async with self._database.read() as connection:
            return await _get(connection, key_id)

    async def list(self, tenant: str | None = None) -> tuple[Key, ...]:
        """All keys, or one tenant's, oldest first; revoked ones too."""
        query = sa.select(tables.keys).order_by(tables.keys.c.created_at, tables.keys.c.id)
        if tenant is not None:
            query = query.where(tables.keys.c.tenant == tenant)
        async with self._database.read() as connection:
            return await records((await connection.execute(query)).mappings(), key_of)

    async def set(self, key_id: str, changes: Mapping[str, Any], *, by: Actor) -> Key:
        """Change `models`, `expires_at`, `note` or limits of a key; None allows all models, or removes the others.

        Raises: UnknownKey; BadValue: the expiry has no time zone, or a limit is out of its range or unknown.
        """
        check_expiry(changes.get("expires_at"))
        values = {name: changes[name] for name in _RIGHTS if name in changes}
        limits = {name: value for name, value in changes.items() if name not in _RIGHTS}
        details = {"changed": sorted(values)} | limits
        async with self._database.change(by, "key.set", key_id, details) as connection:
            key = await _get(connection, key_id, for_update=True)
            if limits:
                values["limits"] = _stored_limits(key.limits.changed(limits))
            if values:
                table = tables.keys
                await connection.execute(sa.update(table).where(table.c.id == key_id).values(**values))
            return await _get(connection, key_id)

    async def revoke(self, key_id: str, *, by: Actor, in_s: float = 0.0) -> Key:
        """Revoke a key now, or `in_s` seconds from now; an earlier end stays. Raises: UnknownKey."""
        async with self._database.change(by, "key.revoke", key_id, {"in_s": in_s}) as connection:
            return await _revoke(connection, await _get(connection, key_id), in_s)

    async def rotate(self, key_id: str, *, by: Actor, overlap_s: float = 0.0) -> IssuedKey:
        """Create a key with the same rights, limits and usage so far; the old one ends after `overlap_s`.

        Raises: UnknownKey.
        """
        async with self._database.change(by, "key.rotate", key_id, {"overlap_s": overlap_s}) as connection:
            old = await _get(connection, key_id)
            if not old.is_valid(utc_now()):
                raise UnknownKey(key_id)
            issued = _new_key(
                old.tenant, old.role, None, old.models, old.expires_at, old.note, old.limits, old.account
            )
            await _insert(connection, issued.key)
            await _revoke(connection, old, overlap_s)
        return issued


def hash_secret(secret: str) -> str:
    """The hash of a secret that the database stores."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def check_expiry(moment: datetime | None) -> None:
    """Raises: BadValue: no time zone."""
    if moment is not None and moment.tzinfo is None:
        raise BadValue("expires_at needs a time zone, for example +00:00.")


def _new_key(
    tenant: str | None,
    role: Role,
    secret: str | None,
    models: Sequence[str] | None,
    expires_at: datetime | None,
    note: str,
    limits: KeyLimits,
    account: str | None = None,
) -> IssuedKey:
    if secret is not None and not (6 <= len(secret) <= 256 and secret.isascii() and secret.isprintable()):
        raise BadValue("A fixed key must have 6 to 256 printable ASCII characters; choose another secret.")
    check_expiry(expires_at)
    secret = secret or "lg-" + secrets.token_urlsafe(32)
    key_id = "k_" + secrets.token_hex(8)
    key = Key(
        id=key_id,
        tenant=tenant,
        role=role,
        prefix=secret[: min(_PREFIX_CHARS, len(secret) // 2)],
        sha256=hash_secret(secret),
        models=None if models is None else tuple(models),
        expires_at=expires_at,
        revoked_at=None,
        created_at=utc_now(),
        note=note,
        limits=limits,
        account=account or key_id,
    )
    return IssuedKey(key, secret)


async def _require_tenant(connection: AsyncConnection, tenant: str | None) -> None:
    query = sa.select(tables.tenants.c.name).where(tables.tenants.c.name == tenant)
    if tenant is not None and (await connection.execute(query)).scalar_one_or_none() is None:
        raise UnknownTenant(tenant)


async def _insert(connection: AsyncConnection, key: Key) -> None:
    values = {column.name: getattr(key, column.name) for column in tables.keys.columns}
    values["models"] = None if key.models is None else list(key.models)
    values["limits"] = _stored_limits(key.limits)
    await connection.execute(sa.insert(tables.keys).values(**values))


async def _get(connection: AsyncConnection, key_id: str, *, for_update: bool = False) -> Key:
    query = sa.select(tables.keys).where(tables.keys.c.id == key_id)
    if for_update:
        query = query.with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise UnknownKey(key_id)
    return key_of(row)


async def _revoke(connection: AsyncConnection, key: Key, in_s: float) -> Key:
    end = utc_now() + timedelta(seconds=max(0.0, in_s))
    end = min(end, key.revoked_at or end)
    table = tables.keys
    await connection.execute(sa.update(table).where(table.c.id == key.id).values(revoked_at=end))
    return await _get(connection, key.id)


def key_of(row: Mapping[Any, Any]) -> Key:
    """A row of `tables.keys` as a record."""
    values = {column.name: row[column.name] for column in tables.keys.columns}
    values["role"] = Role(values["role"])
    values["models"] = None if values["models"] is None else tuple(values["models"])
    values["limits"] = KeyLimits.read(values["id"], values["limits"] or {})
    values["account"] = values["account"] or values["id"]
    return Key(**values)


def _stored_limits(limits: KeyLimits) -> dict[str, Any] | None:
    return limits.model_dump(mode="json", exclude_defaults=True) or None

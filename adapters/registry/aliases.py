"""Aliases: the versions that a public name points at, changed by compare-and-swap, with a history for rollback."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.billing.webhooks import WebhookEvent
from adapters.errors import AliasConflict, BadValue, NothingToRollBack, UnknownAdapter
from adapters.models import Actor, Alias, AliasChange, AliasTarget, VersionState
from adapters.names import public_name
from adapters.registry.billing.webhooks import enqueue
from adapters.registry.database import DatabasePart, utc_now
from adapters.registry.schema import tables
from adapters.registry.schema.rows import lock_adapter, read_version
from adapters.registry.state_machine import check_serves

_L, _C, _V = tables.aliases, tables.alias_changes, tables.versions


class Aliases(DatabasePart):
    """The registry's aliases."""

    async def get(self, tenant: str, adapter: str) -> Alias:
        """The alias; generation 0 if no version was promoted yet."""
        async with self._database.read() as connection:
            return await read_alias(connection, tenant, adapter)

    async def set(
        self,
        tenant: str,
        adapter: str,
        targets: Sequence[AliasTarget],
        *,
        expected_generation: int,
        by: Actor,
        restored: int | None = None,
        met: Mapping[str, Any] | None = None,
        reason: str = "",
    ) -> Alias:
        """Point the alias at these versions if its generation is still the expected one.

        `restored` marks a rollback: the generation that these targets come from; `reason` an automatic one. Webhooks
        are told of both. `met`: the conditions that the versions met, and their figures, for the audit log.
        Raises: UnknownAdapter, UnknownVersion, BadValue; AliasConflict; IllegalTransition: a target is
            not ready.
        """
        checked = check_targets(targets)
        name = public_name(tenant, adapter)
        details: dict[str, Any] = {"targets": _plain(checked), "restored": restored}
        details |= ({"condition": met} if met else {}) | ({"reason": reason} if reason else {})
        async with self._database.change(by, "alias.set", name, details) as connection:
            locked = await lock_adapter(connection, tenant, adapter)
            if locked.removed_at is not None:
                raise UnknownAdapter(name)
            alias = await read_alias(connection, tenant, adapter)
            if alias.generation != expected_generation:
                raise AliasConflict(name, expected_generation, alias.generation)
            for target in checked:
                check_serves(await read_version(connection, tenant, adapter, target.number))
            if restored is not None or reason:
                await _tell(connection, alias, checked, by, reason)
            return await write_alias(connection, alias, checked, by=by, restored=restored)

    async def history(self, tenant: str, adapter: str, *, limit: int = 50) -> tuple[AliasChange, ...]:
        """Present and earlier targets, newest first."""
        async with self._database.read() as connection:
            return await _changes(connection, tenant, adapter, limit)

    async def previous(self, tenant: str, adapter: str) -> AliasChange:
        """The target of a rollback: the last change that gave one version, still ready, all the traffic.

        Splits and earlier rollbacks are skipped: two rollbacks go back two promotions, and never return to the
        version that was rolled back.
        Raises: NothingToRollBack.
        """
        async with self._database.read() as connection:
            changes = await _changes(connection, tenant, adapter, None)
            ready = await _ready_numbers(connection, tenant, adapter)
        if changes and (change := change_before(changes, ready)):
            return change
        raise NothingToRollBack(
            f"{public_name(tenant, adapter)!r} has no earlier version that is still ready; promote a version instead."
        )


def change_before(changes: Sequence[AliasChange], ready: Container[int]) -> AliasChange | None:
    """Go back from the newest change; a rollback continues at the generation that it restored."""
    by_generation = {change.generation: change for change in changes}
    now = changes[0]
    generation = now.generation
    while True:
        while (restored := by_generation[generation].restored) is not None:
            generation = restored
        generation -= 1
        change = by_generation.get(generation)
        if change is None:
            return None
        if len(change.targets) == 1 and change.targets != now.targets and change.targets[0].number in ready:
            return change


def check_targets(targets: Sequence[AliasTarget]) -> tuple[AliasTarget, ...]:
    """Sort targets by version. Raises: BadValue: no target, a version twice, or a weight out of range."""
    numbers = [target.number for target in targets]
    if not numbers or len(set(numbers)) != len(numbers):
        raise BadValue("An alias needs at least one version, and each at most once.")
    for target in targets:
        if not (math.isfinite(target.weight) and 0 < target.weight <= 1e6):
            raise BadValue(
                f"Weight {target.weight:g} of version {target.number} must be above 0, up to 1000000."
            )
    if len(targets) == 1:
        return (AliasTarget(numbers[0]),)
    return tuple(sorted(targets, key=lambda target: target.number))


def targets_of(plain: Iterable[Sequence[float]]) -> tuple[AliasTarget, ...]:
    """Targets from their JSON form `[[number, weight], …]`."""
    return tuple(AliasTarget(int(number), float(weight)) for number, weight in plain)


def _plain(targets: Iterable[AliasTarget]) -> list[list[float]]:
    return [[target.number, target.weight] for target in targets]


async def read_alias(connection: AsyncConnection, tenant: str, adapter: str) -> Alias:
    """The alias, read within a transaction."""
    query = sa.select(_L).where(_L.c.tenant == tenant, _L.c.adapter == adapter)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        return Alias(tenant, adapter, 0, ())
    return Alias(tenant, adapter, row["generation"], targets_of(row["targets"]), row["updated_at"])


async def write_alias(
    connection: AsyncConnection,
    alias: Alias,
    targets: Sequence[AliasTarget],
    *,
    by: Actor,
    restored: int | None = None,
) -> Alias:
    """Write the next generation and its history entry; the caller has called `lock_adapter`."""
    key = {"tenant": alias.tenant, "adapter": alias.adapter}
    values = {"generation": alias.generation + 1, "targets": _plain(targets), "updated_at": utc_now()}
    if alias.generation:
        mine = sa.and_(_L.c.tenant == alias.tenant, _L.c.adapter == alias.adapter)
        await connection.execute(sa.update(_L).where(mine).values(**values))
    else:
        await connection.execute(sa.insert(_L).values(**key, **values))
    change = {"targets": values["targets"], "at": values["updated_at"], "by": by.name, "restored": restored}
    await connection.execute(sa.insert(_C).values(**key, generation=alias.generation + 1, **change))
    return await read_alias(connection, alias.tenant, alias.adapter)


async def _tell(
    connection: AsyncConnection, before: Alias, targets: Sequence[AliasTarget], by: Actor, reason: str
) -> None:
    """Tell webhooks of a rollback, in its transaction. Operators' names at a shell stay on the machine."""
    data = {
        "tenant": before.tenant,
        "adapter": before.adapter,
        "model": public_name(before.tenant, before.adapter),
        "generation": before.generation + 1,
        "before": _plain(before.targets),
        "targets": _plain(targets),
        "by": "operator" if by.name.startswith("shell:") else by.name,
        "reason": reason or "asked for",
    }
    await enqueue(connection, WebhookEvent.ROLLBACK, before.tenant, data)


async def _changes(
    connection: AsyncConnection, tenant: str, adapter: str, limit: int | None
) -> tuple[AliasChange, ...]:
    query = sa.select(_C).where(_C.c.tenant == tenant, _C.c.adapter == adapter)
    query = query.order_by(_C.c.generation.desc()).limit(limit)
    return tuple(
        AliasChange(row["generation"], targets_of(row["targets"]), row["at"], row["by"], row["restored"])
        for row in (await connection.execute(query)).mappings()
    )


async def _ready_numbers(connection: AsyncConnection, tenant: str, adapter: str) -> frozenset[int]:
    query = sa.select(_V.c.number).where(
        _V.c.tenant == tenant, _V.c.adapter == adapter, _V.c.state == VersionState.READY
    )
    return frozenset((await connection.execute(query)).scalars())

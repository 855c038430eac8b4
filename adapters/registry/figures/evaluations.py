"""Evaluations of versions: who asked for what, how far it is, and the figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from adapters.models import Actor, Version
from adapters.promotion.errors import UnknownEvaluation
from adapters.registry.database import DatabasePart, finish_change_transaction, insert_into, utc_now
from adapters.registry.schema import evaluation_tables

_E, _T = evaluation_tables.evaluations, evaluation_tables.evaluation_turns
#: Ended evaluations of one adapter that are kept; older ones are removed when another begins.
KEPT_PER_ADAPTER = 100
#: The error of an evaluation whose server ended; that server goes on with it if it comes back.
LOST = "Its server ended, and the chats with it. Begin it again to go on where it was left."


class EvaluationState(StrEnum):
    """RUNNING also while it waits for its turn, and after its server has ended, until it is asked for again."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One version on some held-out chats. The same version, chats and options have the same id."""

    id: str
    tenant: str
    adapter: str
    version: int
    data_digest: str  # sha256 hex of the chats
    options: Mapping[str, Any]  # what else decides the figures: `turns` and `max_tokens`
    caller: str  # the tenant whose key asked for it; "" for an operator
    by: str
    state: EvaluationState
    owner: str  # the server that runs it
    created_at: datetime
    turns: int | None = None  # None until the chats are read
    done: int = 0
    figures: Mapping[str, Any] | None = None
    error: str | None = None
    ended_at: datetime | None = None

    @property
    def lacks_judge(self) -> bool:
        """Whether it has finished without the score of its judge, who did not answer."""
        return self.state is EvaluationState.FINISHED and "not_judged" in (self.figures or {})

    @property
    def is_comparable_by(self) -> tuple[str, str]:
        """Two evaluations with the same value have figures of the same turns."""
        return self.data_digest, json.dumps(self.options, sort_keys=True)


def evaluation_id(version: Version, data_digest: str, options: Mapping[str, Any]) -> str:
    """The id of the evaluation of this version (its weights, not only its number) on these chats."""
    parts = (version.tenant, version.adapter, version.number, version.digest, data_digest, dict(options))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Evaluations(DatabasePart):
    """The registry's evaluations."""

    async def begin(self, evaluation: Evaluation, *, by: Actor, seen: Evaluation | None = None) -> bool:
        """Store a new evaluation, or let the one that was `seen` go on under this owner; its turns are kept.

        False, and nothing is stored: there is one, and it is not as it was seen: another server was first.
        """
        name = f"{evaluation.tenant}-{evaluation.adapter}@{evaluation.version}"
        values = {c.name: getattr(evaluation, c.name) for c in _E.columns}
        again = {
            "state": EvaluationState.RUNNING, "owner": evaluation.owner, "error": None, "ended_at": None,
            "caller": evaluation.caller, "by": evaluation.by, "figures": None,
        }  # fmt: skip
        insert = insert_into(self._database.engine.dialect, _E).values(**values)
        async with self._database.write() as connection:
            begun = insert.on_conflict_do_update(
                index_elements=[_E.c.id], set_=again, where=_is_as(seen) if seen else sa.false()
            )
            if not (await connection.execute(begun)).rowcount:
                return False
            old = _newest_first(evaluation.tenant, evaluation.adapter).where(
                _E.c.state != EvaluationState.RUNNING
            )
            kept = old.with_only_columns(_E.c.id).offset(KEPT_PER_ADAPTER).limit(KEPT_PER_ADAPTER)
            ids = (await connection.execute(kept)).scalars().all()
            await connection.execute(sa.delete(_E).where(_E.c.id.in_(ids)))
            details = {"id": evaluation.id, "data": evaluation.data_digest, **evaluation.options}
            await finish_change_transaction(connection, by, "version.evaluate", name, details)
        return True

    async def get(self, tenant: str, adapter: str, evaluation: str) -> Evaluation:
        """One evaluation of this adapter. Raises: UnknownEvaluation."""
        query = _query().where(_E.c.id == evaluation, _E.c.tenant == tenant, _E.c.adapter == adapter)
        found = await self._read(query)
        if not found:
            raise UnknownEvaluation
        return found[0]

    async def find(self, evaluation: str) -> Evaluation | None:
        """The evaluation of this id, if there is one."""
        found = await self._read(_query().where(_E.c.id == evaluation))
        return found[0] if found else None

    async def list(
        self, tenant: str, adapter: str, version: int | None = None, *, limit: int = KEPT_PER_ADAPTER
    ) -> tuple[Evaluation, ...]:
        """The evaluations of an adapter, or of one of its versions, the newest first."""
        query = _newest_first(tenant, adapter).limit(limit)
        if version is not None:
            query = query.where(_E.c.version == version)
        return await self._read(query)

    async def left(self, ids: Sequence[str]) -> tuple[Evaluation, ...]:
        """Those of these evaluations that have not ended, or only because their server did."""
        return await self._read(_query().where(_E.c.id.in_(ids), sa.or_(_is_running(), _E.c.error == LOST)))

    async def orphans(self, living: Sequence[str]) -> tuple[Evaluation, ...]:
        """Those that no living server runs."""
        return await self._read(_query().where(_is_running(), _E.c.owner.not_in(living)))

    async def lose(self, evaluation: Evaluation) -> bool:
        """End one whose server has ended; False if it is not as it was seen."""
        values = {"state": EvaluationState.FAILED, "error": LOST, "ended_at": utc_now()}
        return await self._change(evaluation, values)

    async def take_over(self, evaluation: Evaluation, owner: str) -> bool:
        """This server runs it from now on; False if it is not as it was seen: another server does."""
        values = {"owner": owner, "state": EvaluationState.RUNNING, "error": None, "ended_at": None}
        return await self._change(evaluation, values)

    async def _change(self, seen: Evaluation, values: Mapping[str, Any]) -> bool:
        async with self._database.write() as connection:
            update = sa.update(_E).where(_E.c.id == seen.id, _is_as(seen)).values(**values)
            return bool((await connection.execute(update)).rowcount)

    async def set_turns(self, evaluation: str, turns: int) -> None:
        """Store how many turns it has."""
        async with self._database.write() as connection:
            await connection.execute(sa.update(_E).where(_E.c.id == evaluation).values(turns=turns))

    async def add_facts(self, evaluation: Evaluation, facts: Mapping[int, Mapping[str, Any]]) -> bool:
        """Store the facts of some turns; False, and nothing is stored, if it was cancelled or taken over."""
        rows = [{"evaluation": evaluation.id, "turn": turn, "facts": dict(of)} for turn, of in facts.items()]
        insert = insert_into(self._database.engine.dialect, _T).values(rows).on_conflict_do_nothing()
        async with self._database.write() as connection:
            if not (await connection.execute(sa.select(_E.c.id).where(*_own(evaluation)))).first():
                return False
            await connection.execute(insert)
        return True

    async def facts(self, evaluation: str) -> dict[int, Mapping[str, Any]]:
        """The facts of the turns so far, by turn."""
        query = sa.select(_T.c.turn, _T.c.facts).where(_T.c.evaluation == evaluation)
        async with self._database.read() as connection:
            return {row.turn: row.facts for row in await connection.execute(query)}

    async def end(
        self,
        evaluation: Evaluation,
        state: EvaluationState,
        *,
        figures: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        """End it if it still runs under this owner; of a finished one only the figures are kept."""
        values = {"state": state, "figures": figures, "error": error, "ended_at": utc_now()}
        async with self._database.write() as connection:
            await connection.execute(sa.update(_E).where(*_own(evaluation)).values(**values))
            if state is EvaluationState.FINISHED:
                await connection.execute(sa.delete(_T).where(_T.c.evaluation == evaluation.id))

    async def cancel(self, evaluation: Evaluation, *, by: Actor) -> None:
        """End it, on whichever server it runs; nothing happens if it has ended."""
        name = f"{evaluation.tenant}-{evaluation.adapter}@{evaluation.version}"
        async with self._database.write() as connection:
            ended = sa.update(_E).where(_E.c.id == evaluation.id, _is_running())
            values = {"state": EvaluationState.CANCELLED, "ended_at": utc_now()}
            if (await connection.execute(ended.values(**values))).rowcount:
                await finish_change_transaction(connection, by, "version.cancel", name, {"id": evaluation.id})

    async def _read(self, query: sa.Select[Any]) -> tuple[Evaluation, ...]:
        async with self._database.read() as connection:
            return tuple(_evaluation_of(row) for row in (await connection.execute(query)).mappings())


def _query() -> sa.Select[Any]:
    done = sa.select(sa.func.count()).where(_T.c.evaluation == _E.c.id).scalar_subquery()
    return sa.select(_E, done.label("done"))


def _newest_first(tenant: str, adapter: str) -> sa.Select[Any]:
    mine = _query().where(_E.c.tenant == tenant, _E.c.adapter == adapter)
    return mine.order_by(_E.c.created_at.desc(), _E.c.id)


def _own(evaluation: Evaluation) -> tuple[sa.ColumnElement[bool], ...]:
    return _E.c.id == evaluation.id, _is_running(), _E.c.owner == evaluation.owner


def _is_running() -> sa.ColumnElement[bool]:
    return _E.c.state == EvaluationState.RUNNING


def _is_as(seen: Evaluation) -> sa.ColumnElement[bool]:
    """Whether nobody has taken it or ended it since it was read."""
    return sa.and_(_E.c.state == seen.state, _E.c.owner == seen.owner)


def _evaluation_of(row: RowMapping) -> Evaluation:
    values = dict(row)
    state = values["state"] = EvaluationState(values["state"])
    if state is EvaluationState.FINISHED:
        values["done"] = values["turns"]
    return Evaluation(**values)

"""Begins, runs, resumes and cancels evaluations. One of each tenant's runs at a time; the others wait for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from adapters.errors import AdapterError, RegistryUnavailable
from adapters.models import Actor, Tenant, Version
from adapters.promotion.errors import EvaluationRefused, TooManyEvaluations
from adapters.registry import Registry
from adapters.registry.database import utc_now
from adapters.registry.figures.evaluations import Evaluation, EvaluationState, evaluation_id
from adapters.registry.state_machine import check_serves
from adapters.training.evaluation.held_out import DEFAULT_END_TOKEN, Rendering, template_kwargs_of
from server.background.evaluations.data_files import Received
from server.background.evaluations.evaluator import Evaluator, persistently
from server.background.evaluations.options import EvaluationOptions
from server.config.settings import Settings
from server.engine.base_model import BaseModel, operators_template
from server.errors import LoragateError

logger = logging.getLogger("loragate.evaluations")

#: Evaluations of one tenant that run or wait on this server.
_MOST_PER_TENANT = 8
#: How often it is looked for evaluations that an earlier process has left.
RESUME_INTERVAL_S = 15.0
#: A server that ended has so long to come back before its evaluations have failed.
LOST_AFTER_S = 120.0
#: The longest time that one may run, from its turn on.
_TIMEOUT_S = 6 * 3600.0


class EvaluationService:
    """The evaluations of this server."""

    def __init__(self, registry: Registry, evaluator: Evaluator, settings: Settings, base: BaseModel) -> None:
        self._registry = registry
        self._evaluator = evaluator
        self._settings = settings
        self._base = base
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._beginning = asyncio.Lock()
        self._queued: Counter[str] = Counter()
        self._orphaned_at: dict[str, float] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def begin(
        self,
        version: Version,
        chats: AsyncIterator[bytes],
        options: EvaluationOptions,
        *,
        asker: Tenant | None,
        by: Actor,
    ) -> Evaluation:
        """Evaluate a version on some chats; returns at once, while it runs.

        The same version, chats and options are one evaluation: a finished one is returned as it is, one that failed,
        was cancelled or lost its server goes on where it was left.

        Args:
            version: which version, ready to serve.
            chats: the bytes of a file of JSON lines.
            options: see there.
            asker: the tenant under whose name its cost is counted; None for an operator.
            by: who asks.

        Raises:
            IllegalTransition: the version cannot serve.
            EvaluationRefused: the chats are too large, or there are none; there is no such judge.
            TooManyEvaluations: of this tenant.
        """
        check_serves(version)
        self._evaluator.judges.check(options.judge)
        self._check_place(version.tenant)
        self._queued[version.tenant] += 1  # what is being received takes a place, too
        try:
            received = await self._evaluator.files.receive(chats)
        finally:
            self._queued[version.tenant] -= 1
        try:
            async with self._beginning:
                return await self._begin(received, version, options, asker, by)
        finally:
            self._evaluator.files.drop(received.file)

    async def _begin(
        self,
        received: Received,
        version: Version,
        options: EvaluationOptions,
        asker: Tenant | None,
        by: Actor,
    ) -> Evaluation:
        evaluation = self._new(version, received.digest, options, asker, by)
        found = await self._registry.evaluations.find(evaluation.id)
        if found is not None and await self._is_in_hand(found):
            return found
        self._check_place(version.tenant)
        if await self._registry.evaluations.begin(evaluation, by=by, seen=found):
            self._evaluator.files.keep(received, evaluation.id)
            self._start(evaluation)
        return await self._registry.evaluations.get(version.tenant, version.adapter, evaluation.id)

    def _new(
        self, version: Version, digest: str, options: EvaluationOptions, asker: Tenant | None, by: Actor
    ) -> Evaluation:
        plain = options.as_dict()
        return Evaluation(
            id=evaluation_id(version, digest, plain),
            tenant=version.tenant,
            adapter=version.adapter,
            version=version.number,
            data_digest=digest,
            options=plain,
            caller=asker.name if asker else "",
            by=by.name,
            state=EvaluationState.RUNNING,
            owner=self._registry.membership.own.id,
            created_at=utc_now(),
        )

    async def cancel(self, evaluation: Evaluation, *, by: Actor) -> None:
        """End an evaluation; nothing happens if it has ended. Its turns are kept, if it is begun again."""
        await self._registry.evaluations.cancel(evaluation, by=by)
        if task := self._tasks.get(evaluation.id):
            task.cancel()

    async def resume(self) -> None:
        """Go on with what an earlier process has left in this folder; call it after a start, and now and then.

        A process that was killed counts as alive for some seconds where several servers share the registry.
        Raises: RegistryUnavailable.
        """
        async with self._beginning:
            kept = await asyncio.to_thread(self._evaluator.files.kept)
            left = {each.id: each for each in await self._registry.evaluations.left(kept)}
            own = self._registry.membership.own.id
            for name in kept:
                if name not in left and name not in self._tasks:
                    self._evaluator.files.remove(name)
                elif (
                    name in left
                    and not await self._is_in_hand(left[name])
                    and await self._registry.evaluations.take_over(left[name], own)
                ):
                    self._start(replace(left[name], owner=own))

    async def end_lost(self) -> None:
        """End what ran on servers that have ended and did not come back; call it now and then.

        The chats are on those servers' disks, so no other server can go on with it. Raises: RegistryUnavailable.
        """
        living = [replica.id for replica in await self._registry.membership.live()]
        orphans = {each.id: each for each in await self._registry.evaluations.orphans(living)}
        now = time.monotonic()
        self._orphaned_at = {name: self._orphaned_at.get(name, now) for name in orphans}
        for name, since in self._orphaned_at.items():
            lost = now - since >= LOST_AFTER_S and await self._registry.evaluations.lose(orphans[name])
            if lost:
                logger.warning("The server of an evaluation ended.", extra={"model": _name(orphans[name])})

    async def aclose(self) -> None:
        """Stop; what runs goes on with the next start."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._evaluator.judges.aclose()

    async def _is_in_hand(self, evaluation: Evaluation) -> bool:
        """Whether it has finished with all that was asked for, or a server that lives runs it."""
        if evaluation.id in self._tasks:
            return True
        if evaluation.state is EvaluationState.FINISHED:
            return not evaluation.lacks_judge
        if evaluation.state is not EvaluationState.RUNNING:
            return False
        others = {replica.id for replica in await self._registry.membership.live()}
        return evaluation.owner in others - {self._registry.membership.own.id}

    def _check_place(self, tenant: str) -> None:
        if self._queued[tenant] >= _MOST_PER_TENANT:
            raise TooManyEvaluations(tenant, _MOST_PER_TENANT)

    def _start(self, evaluation: Evaluation) -> None:
        self._queued[evaluation.tenant] += 1
        task = asyncio.create_task(self._run(evaluation), name=f"evaluation-{evaluation.id}")
        self._tasks[evaluation.id] = task
        task.add_done_callback(lambda done: self._ended(evaluation, done))

    def _ended(self, evaluation: Evaluation, task: asyncio.Task[None]) -> None:
        self._queued[evaluation.tenant] -= 1
        if self._tasks.get(evaluation.id) is task:  # not while the server stops: then the chats are kept
            del self._tasks[evaluation.id]
            self._evaluator.files.remove(evaluation.id)

    async def _run(self, evaluation: Evaluation) -> None:
        """Run it when it is its turn, and store how it ends."""
        error = "It failed by a fault of the server; the log has the reason."
        async with self._turns[evaluation.tenant]:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await persistently(lambda: self._evaluate(evaluation))
                return
            except TimeoutError:
                error = f"It did not end within {_TIMEOUT_S / 3600:g} h. Begin it again to go on where it was left."
            except (AdapterError, LoragateError) as refusal:
                error = str(refusal)
            except Exception:  # tokenizers and templates are foreign programs, and may raise anything
                logger.exception("An evaluation failed.", extra={"model": _name(evaluation)})
            await self._store_failure(evaluation, error)

    async def _evaluate(self, evaluation: Evaluation) -> None:
        version = await self._registry.versions.get(evaluation.tenant, evaluation.adapter, evaluation.version)
        asker = await self._registry.tenants.get(evaluation.caller) if evaluation.caller else None
        await self._evaluator.run(evaluation, version, asker, await self._rendering(version))

    async def _store_failure(self, evaluation: Evaluation, error: str) -> None:
        try:
            await self._registry.evaluations.end(evaluation, EvaluationState.FAILED, error=error)
        except (RegistryUnavailable, SQLAlchemyError):
            logger.exception("The end of an evaluation is not stored.", extra={"model": _name(evaluation)})

    async def _rendering(self, version: Version) -> Rendering:
        """As the version was trained, with the template that is served. Raises: EvaluationRefused."""
        folder = self._base.rules.base_folder
        if folder is None:
            raise EvaluationRefused("The base model's files are not known, so chats cannot be rendered.")
        training = version.training or {}
        template = await asyncio.to_thread(operators_template, self._settings)
        end_token = str(training.get("end_token") or DEFAULT_END_TOKEN)
        return Rendering(folder, end_token, template_kwargs_of(training), template)


def _name(evaluation: Evaluation) -> str:
    return f"{evaluation.tenant}-{evaluation.adapter}@{evaluation.version}"

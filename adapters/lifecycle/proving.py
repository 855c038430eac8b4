"""Proofs before a promotion: a version gets traffic when several servers have loaded and probed it.

The server that promotes proves the version itself first, so that a bad one never reaches another. Then it asks others
through the registry; each looks there twice a second. A server that dies, or whose engine stops, is replaced by
another one, if there is one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError

from adapters.errors import AdapterError, ProofFailed, ProofTimedOut, RegistryUnavailable
from adapters.lifecycle.loading import Loading
from adapters.models import AliasTarget
from adapters.registry import Registry
from adapters.registry.replicas.membership import Replica
from adapters.registry.replicas.proofs import PROOF_TIMEOUT_S, Proof, ProofRequest

logger = logging.getLogger("loragate")

#: How often it is looked whether the other servers have answered.
_POLL_INTERVAL_S = 0.2
#: What this server proves at the same time for one tenant; the rest waits, so that no tenant delays others.
_MAX_PER_TENANT = 2


class Proving:
    """Asks other servers for proofs, and gives them this server's.

    Args:
        registry: where servers ask and answer.
        loading: loads and probes here.
        servers: how many servers prove a version, this one included; None: all that serve.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        registry: Registry,
        loading: Loading,
        servers: int | None = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._loading = loading
        self._servers = servers
        self._clock = clock
        self._tasks: dict[ProofRequest, asyncio.Task[None]] = {}

    async def prove(
        self, tenant: str, adapter: str, targets: Sequence[AliasTarget], *, elsewhere: bool = True
    ) -> tuple[str, ...]:
        """Check that these versions load and answer, here and `elsewhere`; returns the servers' ids, this one first.

        Other servers are asked for the versions that have no traffic yet: those that have it run there already.

        Raises:
            ProofFailed: another server could not load or probe one of them.
            ProofTimedOut: another server lives and did not answer.
            As `Loading.probe`: this server could not.
        """
        numbers = [target.number for target in targets]
        await self._loading.probe(tenant, adapter, numbers)
        own = self._registry.membership.own.id
        if self._servers == 1 or not elsewhere or not self._registry.membership.is_shared:
            return (own,)
        served = {target.number for target in (await self._registry.aliases.get(tenant, adapter)).targets}
        new = [number for number in numbers if number not in served]
        if not new:
            return (own,)
        others = _Others(self._registry, uuid4().hex, tenant, adapter, new, self._clock() + PROOF_TIMEOUT_S)
        wanted = None if self._servers is None else self._servers - 1
        return (own, *await others.prove(wanted, self._clock))

    async def answer(self) -> None:
        """Begin what other servers have asked this one for. Raises: RegistryUnavailable."""
        running = Counter(request.tenant for request in self._tasks)
        for request in await self._registry.proofs.asked():
            if request not in self._tasks and running[request.tenant] < _MAX_PER_TENANT:
                running[request.tenant] += 1
                name = f"prove {request.tenant}-{request.adapter}@{request.version}"
                self._tasks[request] = asyncio.create_task(self._answer(request), name=name)

    async def _answer(self, request: ProofRequest) -> None:
        try:
            with suppress(RegistryUnavailable):  # asked again while the row is there
                await self._registry.proofs.answer(request, await self._reason(request))
        finally:
            del self._tasks[request]

    async def _reason(self, request: ProofRequest) -> str:
        """Why the version cannot be served here, or "". Raises: RegistryUnavailable."""
        try:
            await self._loading.probe(request.tenant, request.adapter, [request.version])
        except RegistryUnavailable:
            raise
        except AdapterError as error:
            return str(error)
        except (OSError, SQLAlchemyError):
            logger.exception(
                "%s-%s@%d could not be proven.", request.tenant, request.adapter, request.version
            )
            return "It failed for a reason that is in that server's log."
        return ""

    async def aclose(self) -> None:
        """Cancel what this server proves for others; they ask another one when this one has ended."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Others:
    """The other servers that one promotion asks."""

    def __init__(
        self,
        registry: Registry,
        proof_id: str,
        tenant: str,
        adapter: str,
        numbers: Collection[int],
        deadline: float,
    ) -> None:
        self._registry = registry
        self._id = proof_id
        self._tenant, self._adapter, self._numbers = tenant, adapter, numbers
        self._deadline = deadline
        self._asked: set[str] = set()
        self._waiting: set[str] = set()
        self._proven: list[str] = []

    async def prove(self, wanted: int | None, clock: Callable[[], float]) -> tuple[str, ...]:
        """Ask `wanted` servers, or all, and wait for them. Raises: as `Proving.prove`."""
        try:
            serving = await self._serving()
            wanted = len(serving) if wanted is None else wanted
            while True:
                await self._ask(serving, wanted)
                if not self._waiting:
                    return tuple(self._proven)
                if clock() >= self._deadline:
                    raise _timed_out(self._waiting)
                await asyncio.sleep(_POLL_INTERVAL_S)
                self._read(await self._registry.proofs.answers(self._id))
                serving = await self._serving()
                self._waiting &= {server.id for server in serving}
        finally:
            with suppress(RegistryUnavailable):  # the rows are forgotten later
                await asyncio.shield(self._registry.proofs.withdraw(self._id))

    async def _serving(self) -> tuple[Replica, ...]:
        own = self._registry.membership.own
        live = await self._registry.membership.live()
        return tuple(server for server in live if server.serves and server.id != own.id)

    async def _ask(self, serving: Iterable[Replica], wanted: int) -> None:
        """Ask as many servers as are missing, of those that were not asked yet."""
        fresh = [server.id for server in serving if server.id not in self._asked]
        missing = wanted - len(self._proven) - len(self._waiting)
        chosen = random.sample(fresh, min(max(missing, 0), len(fresh)))
        self._asked.update(chosen)
        self._waiting.update(chosen)
        await self._registry.proofs.ask(
            ProofRequest(self._id, replica, self._tenant, self._adapter, number)
            for replica in chosen
            for number in self._numbers
        )

    def _read(self, answers: Sequence[Proof]) -> None:
        """Take the answers. Raises: ProofFailed."""
        for answer in answers:
            if not answer.passed and answer.replica in self._waiting:
                raise _failed(answer)
        for replica in sorted(self._waiting):
            if sum(answer.replica == replica for answer in answers) == len(self._numbers):
                self._proven.append(replica)
        self._waiting.difference_update(self._proven)


def _failed(proof: Proof) -> ProofFailed:
    return ProofFailed(
        f"Version {proof.version} was not promoted, because server {proof.replica[:8]} could not prove it: "
        f"{proof.reason} Nothing has changed; `GET /admin/v1/servers` lists the servers."
    )


def _timed_out(waiting: Iterable[str]) -> ProofTimedOut:
    names = ", ".join(server[:8] for server in sorted(waiting))
    return ProofTimedOut(
        f"The version was not promoted: no proof came from {names} within {PROOF_TIMEOUT_S:g} s. Nothing has "
        "changed; try again, or look at the logs of these servers (`GET /admin/v1/servers` lists them)."
    )

"""A front's chooser: Ray Serve decides which server answers, and counts the request until its last byte.

The place on the server is held through `choose_replica`: a rollout or a smaller cluster then waits for the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from ray.serve.handle import DeploymentHandle

from server.cluster.front import Chosen
from server.cluster.front_views import views
from server.cluster.relay import NoReplica

#: How long a request waits for a server while all restart.
CHOICE_TIMEOUT_S = 30.0


class RayChooser:
    """Chooses among the servers of one deployment.

    Args:
        handle: the deployment's; its router is `ray_router.AdapterRouter`, on this event loop.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    @asynccontextmanager
    async def choose(
        self, adapter: str | None, session: str | None, failed: frozenset[str]
    ) -> AsyncIterator[Chosen]:
        """A server, which counts the request until the context ends. Raises: NoReplica."""
        if any(replica.report.base == adapter for replica in views.replicas):
            adapter = None
        choice = self._handle.choose_replica(adapter=adapter, session=session, failed=failed)
        try:
            async with asyncio.timeout(CHOICE_TIMEOUT_S):
                selection = await choice.__aenter__()
        except TimeoutError:
            raise NoReplica from None
        try:
            chosen = Chosen(selection.replica_id, selection.replica_metadata["url"])
            view = views.get(chosen.id)
            if view is None:
                yield chosen
            else:
                with views.sent(view, adapter):
                    yield chosen
        finally:
            await choice.__aexit__(None, None, None)

    async def connect(self) -> None:
        """Let Ray make its router, which it does with the first choice; return when a server accepts requests."""
        while True:
            with suppress(NoReplica):
                async with self.choose(None, None, frozenset()):
                    return

    async def aclose(self) -> None:
        """Stop Ray's router, while its event loop still runs."""
        await self._handle.shutdown_async()

    def all(self) -> list[Chosen]:
        """Every server whose url is known."""
        replicas = [(view.id, view.report) for view in views.replicas if view.report.url]
        return [Chosen(name, report.url, report.server) for name, report in replicas]

"""/metrics: who may read it, and what it says."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers

from server.auth.authenticator import Authenticator
from server.observability.recorder import Metrics
from server.observability.state_collector import StateCollector


class MetricsEndpoint:
    """Answers scrapes.

    Args:
        auth: knows operators.
        protected: only operators may read.
        metrics: what was counted.
        census: what is there now.
    """

    def __init__(
        self, auth: Authenticator, *, protected: bool, metrics: Metrics, census: StateCollector
    ) -> None:
        self._auth = auth
        self._protected = protected
        self._metrics = metrics
        self._census = census

    async def text(self, headers: Headers) -> bytes:
        """Prometheus text. Raises: Unauthenticated, Forbidden; with --protect-metrics, for all but operators."""
        if self._protected:
            await self._auth.operator(headers)
        self._metrics.show(await self._census.take())
        return await asyncio.to_thread(self._metrics.exposition)

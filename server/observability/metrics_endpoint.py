"""/metrics: who may read it, and its text."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers

from server.auth.authenticator import Authenticator
from server.observability.recorder import MetricsRecorder
from server.observability.state_collector import StateCollector


class MetricsEndpoint:
    """Answers scrapes.

    Args:
        authenticator: identifies operators.
        protected: only operators may read.
        metrics: what was counted.
        state: reads the present state.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        protected: bool,
        metrics: MetricsRecorder,
        state: StateCollector,
    ) -> None:
        self._authenticator = authenticator
        self._protected = protected
        self._metrics = metrics
        self._state = state

    async def text(self, headers: Headers) -> bytes:
        """Prometheus text. Raises: Unauthenticated, Forbidden (--protect-metrics, and the caller is no operator)."""
        if self._protected:
            await self._authenticator.operator(headers)
        self._metrics.update(await self._state.collect())
        return await asyncio.to_thread(self._metrics.exposition)

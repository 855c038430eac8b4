"""/metrics: who may read it, and its text."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.datastructures import Headers

from server.auth.authenticator import Authenticator
from server.observability.recorder import MetricsRecorder
from server.observability.state_collector import StateCollector


@dataclass(frozen=True, slots=True)
class MetricsEndpoint:
    """Answers scrapes."""

    authenticator: Authenticator
    protected: bool
    """Whether only operators may read (`--protect-metrics`)."""
    metrics: MetricsRecorder
    state: StateCollector

    async def text(self, headers: Headers) -> bytes:
        """Prometheus text. Raises: Unauthenticated, Forbidden (--protect-metrics, and the caller is no operator)."""
        if self.protected:
            await self.authenticator.operator(headers)
        self.metrics.update(await self.state.collect())
        return await asyncio.to_thread(self.metrics.exposition)

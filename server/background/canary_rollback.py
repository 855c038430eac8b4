"""Automatic rollback of canaries: versions that get part of an adapter's traffic and answer badly."""

from __future__ import annotations

import asyncio
import logging
import time

from adapters.errors import AdapterError
from adapters.lifecycle import Lifecycle
from adapters.lifecycle.canary import CanaryLimits, CanaryWatch, Outcome
from adapters.models import Actor, Alias, Rating, Version
from adapters.registry import Registry
from server.config.settings import Settings
from server.request.context import RequestContext
from server.request.metering import REPETITION

logger = logging.getLogger("loragate.canaries")

JUDGE_INTERVAL_S = 1.0
ACTOR = Actor("canary watch")
#: The client disconnected, or the server was not available: the version is not the cause.
_NOT_THE_VERSION = (499, 503)


def limits_of(settings: Settings) -> CanaryLimits:
    """The operator's limits on errors, empty and repeating answers."""
    shares = {
        Outcome.ERROR: settings.canary_max_errors,
        Outcome.EMPTY: settings.canary_max_empty,
        Outcome.REPEATING: settings.canary_max_repeating,
    }
    return CanaryLimits(shares, min_answers=settings.canary_min_answers)


def rating_limits_of(settings: Settings) -> CanaryLimits:
    """The operator's limit on bad ratings; it needs fewer ratings than the other limits need answers."""
    return CanaryLimits(
        {Outcome.DISLIKED: settings.canary_max_disliked}, min_answers=settings.canary_min_ratings
    )


class CanaryRollback:
    """Counts the outcomes of answers, and takes the traffic from a version that exceeds a limit."""

    def __init__(
        self, registry: Registry, lifecycle: Lifecycle, limits: CanaryLimits, rating_limits: CanaryLimits
    ) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._answers = CanaryWatch(limits)
        self._ratings = CanaryWatch(rating_limits)
        self._changed: set[tuple[str, str]] = set()  # (tenant, adapter) with new outcomes
        self._generations: dict[tuple[str, str], int] = {}
        self.rollbacks = 0

    def note(self, context: RequestContext, status: int) -> None:
        """Count one finished request, unless its version cannot be the cause of the outcome."""
        version = context.target.version
        if version is None or status in _NOT_THE_VERSION or 400 <= status < 500:
            return
        self._answers.note(version, _outcome(context, status), time.monotonic())
        self._changed.add((version.tenant, version.adapter))

    def rated(self, tenant: str, version: Version | None, rating: Rating) -> None:
        """Count a user's rating of an answer of this version."""
        if version is not None:
            outcome = Outcome.DISLIKED if rating is Rating.DOWN else Outcome.GOOD
            self._ratings.note(version, outcome, time.monotonic())
            self._changed.add((version.tenant, version.adapter))

    async def run(self) -> None:
        """Evaluate the adapters with new outcomes every JUDGE_INTERVAL_S, until cancelled."""
        while True:
            await asyncio.sleep(JUDGE_INTERVAL_S)
            changed, self._changed = self._changed, set()
            for tenant, adapter in changed:
                try:
                    await self._judge(await self._registry.aliases.get(tenant, adapter))
                except (AdapterError, OSError):
                    logger.exception(
                        "A canary could not be evaluated; the next outcome tries again.",
                        extra={"model": f"{tenant}-{adapter}"},
                    )

    async def _judge(self, alias: Alias) -> None:
        name = f"{alias.tenant}-{alias.adapter}"
        key = (alias.tenant, alias.adapter)
        if self._generations.setdefault(key, alias.generation) != alias.generation:
            self._generations[key] = alias.generation
            self._ratings.forget(name)
            self._answers.forget(name)  # outcomes under another split do not apply to this one
            return
        now_s = time.monotonic()
        breach = self._answers.judge(alias, name, now_s) or self._ratings.judge(alias, name, now_s)
        if breach is None:
            return
        logger.error("Rolling back a canary: %s", breach, extra={"model": name})
        # The other targets get the traffic, not the version before the split: that may be the canary itself.
        others = [target for target in alias.targets if target.number != breach.number]
        await self._lifecycle.split(
            alias.tenant, alias.adapter, others, by=ACTOR, expected_generation=alias.generation
        )
        self.rollbacks += 1


def _outcome(context: RequestContext, status: int) -> Outcome:
    usage, reasons = context.usage, context.usage.finish_reasons
    if status >= 500 or "error" in reasons or not reasons:
        return Outcome.ERROR
    if usage.answers_looped or usage.answers_steered or REPETITION in reasons:
        return Outcome.REPEATING
    # The end token is counted too: an answer of one token is empty.
    if usage.generated_tokens <= len(reasons) and "stop" in reasons:
        return Outcome.EMPTY
    return Outcome.GOOD

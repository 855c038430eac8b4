"""CanaryRollback that answer badly are rolled back by themselves."""

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
#: Ended by the caller or by us, not by the version.
_NOBODYS_FAULT = (499, 503)


def limits_of(settings: Settings) -> CanaryLimits:
    """The operator's limits."""
    shares = {
        Outcome.ERROR: settings.canary_max_errors,
        Outcome.EMPTY: settings.canary_max_empty,
        Outcome.REPEATING: settings.canary_max_repeating,
    }
    return CanaryLimits(shares, min_answers=settings.canary_min_answers)


def rating_limits_of(settings: Settings) -> CanaryLimits:
    """The same for what users say; there are fewer ratings than answers."""
    return CanaryLimits(
        {Outcome.DISLIKED: settings.canary_max_disliked}, min_answers=settings.canary_min_ratings
    )


class CanaryRollback:
    """Counts how answers ended, and takes the traffic from a version that is worse than it may be."""

    def __init__(
        self, registry: Registry, lifecycle: Lifecycle, limits: CanaryLimits, rating_limits: CanaryLimits
    ) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._watch = CanaryWatch(limits)
        self._ratings = CanaryWatch(rating_limits)
        self._noted: set[tuple[str, str]] = set()
        self._generations: dict[tuple[str, str], int] = {}
        self.rollbacks = 0

    def note(self, context: RequestContext, status: int) -> None:
        """Count one finished request, if its version may be to blame for how it ended."""
        version = context.target.version
        if version is None or status in _NOBODYS_FAULT or 400 <= status < 500:
            return
        self._watch.note(version, _outcome(context, status), time.monotonic())
        self._noted.add((version.tenant, version.adapter))

    def rated(self, tenant: str, version: Version | None, rating: Rating) -> None:
        """Count what a user said about an answer of this version."""
        if version is not None:
            outcome = Outcome.DISLIKED if rating is Rating.DOWN else Outcome.GOOD
            self._ratings.note(version, outcome, time.monotonic())
            self._noted.add((version.tenant, version.adapter))

    async def run(self) -> None:
        """Judge what was noted, once a second, until cancelled."""
        while True:
            await asyncio.sleep(JUDGE_INTERVAL_S)
            noted, self._noted = self._noted, set()
            for tenant, adapter in noted:
                try:
                    await self._judge(await self._registry.aliases.get(tenant, adapter))
                except (AdapterError, OSError):
                    logger.exception("a canary could not be judged", extra={"model": f"{tenant}-{adapter}"})

    async def _judge(self, alias: Alias) -> None:
        name = f"{alias.tenant}-{alias.adapter}"
        key = (alias.tenant, alias.adapter)
        if self._generations.setdefault(key, alias.generation) != alias.generation:
            self._generations[key] = alias.generation
            self._ratings.forget(name)
            self._watch.forget(name)  # what was answered under another split says nothing of this one
            return
        now_s = time.monotonic()
        breach = self._watch.judge(alias, name, now_s) or self._ratings.judge(alias, name, now_s)
        if breach is None:
            return
        logger.error("rolling a canary back: %s", breach, extra={"model": name})
        # Not to what was served before the split: that may have been the canary itself.
        others = [target for target in alias.targets if target.number != breach.number]
        await self._lifecycle.split(
            alias.tenant, alias.adapter, others, by=ACTOR, expected_generation=alias.generation
        )
        self.rollbacks += 1


def _outcome(context: RequestContext, status: int) -> Outcome:
    if status >= 500 or "error" in context.usage.finish_reasons or not context.usage.finish_reasons:
        return Outcome.ERROR
    if (
        context.usage.answers_looped
        or context.usage.answers_steered
        or REPETITION in context.usage.finish_reasons
    ):
        return Outcome.REPEATING
    # The end token is counted too: one token is an answer of nothing.
    if (
        context.usage.generated_tokens <= len(context.usage.finish_reasons)
        and "stop" in context.usage.finish_reasons
    ):
        return Outcome.EMPTY
    return Outcome.GOOD

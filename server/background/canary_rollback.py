"""Automatic rollback of canaries: versions that get part of an adapter's traffic and answer badly."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from adapters.errors import AdapterError, AliasConflict, RegistryUnavailable
from adapters.lifecycle import Lifecycle
from adapters.lifecycle.canary import (
    Breach,
    CanaryLimits,
    Counts,
    Outcome,
    answer_kind,
    duration_kind,
    find_breach,
    rating_kind,
    spans,
)
from adapters.models import Actor, Alias, Rating, Version
from adapters.registry import Registry
from adapters.registry.database import utc_now
from server.config.settings import Settings
from server.request.context import RequestContext
from server.request.metering import REPETITION
from server.request.routing import BLEND_NUMBER

logger = logging.getLogger("loragate.canaries")

JUDGE_INTERVAL_S = 1.0
ACTOR = Actor("canary watch")
#: The client disconnected, or the server was not available: the version is not the cause.
_NOT_THE_VERSION = (499, 503)
#: Options with which a caller, not the version, decides what the answer says; so does a prescribed form.
_FORCING = ("logit_bias", "allowed_token_ids")


def limits_of(settings: Settings) -> CanaryLimits:
    """The operator's limits on failed, empty and repeating answers, bad ratings, and time."""
    shares = {
        Outcome.ERROR: settings.canary_max_errors,
        Outcome.EMPTY: settings.canary_max_empty,
        Outcome.REPEATING: settings.canary_max_repeating,
        Outcome.DISLIKED: settings.canary_max_disliked,
    }
    return CanaryLimits(
        shares,
        min_answers=settings.canary_min_answers,
        min_ratings=settings.canary_min_ratings,
        max_slowdown=settings.canary_max_slowdown,
        false_alarms=settings.canary_false_alarms,
    )


@dataclass(slots=True)
class _Split:
    """What this process has counted of one state of an alias: {version: {kind: number}}."""

    generation: int
    whole: dict[int, Counts] = field(default_factory=dict)
    window: dict[int, Counts] = field(default_factory=dict)
    window_number: int = 1


class CanaryRollback:
    """Counts the outcomes of answers, and takes the traffic from a version that is proven to be bad."""

    def __init__(self, registry: Registry, lifecycle: Lifecycle, limits: CanaryLimits) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._limits = limits
        self._new: defaultdict[tuple[str, str], Counter[tuple[int, str]]] = defaultdict(Counter)
        self._splits: dict[tuple[str, str], _Split] = {}
        self.rollbacks = 0

    def note(self, context: RequestContext, status: int) -> None:
        """Count one finished request, unless its version cannot be the cause of the outcome."""
        version = context.target.version
        if version is None or context.target.blend or status in _NOT_THE_VERSION or 400 <= status < 500:
            return
        self._note(version, answer_kind(_outcome(context, status)))
        usage = context.usage
        if self._limits.max_slowdown and usage.held_at is not None and usage.last_token_at is not None:
            self._note(version, duration_kind(usage.last_token_at - usage.held_at))

    def rated(self, tenant: str, version: Version | None, rating: Rating) -> None:
        """Count a user's rating of an answer of this version."""
        if version is not None and version.number != BLEND_NUMBER:
            outcome = Outcome.DISLIKED if rating is Rating.DOWN else Outcome.GOOD
            self._note(version, rating_kind(outcome))

    def _note(self, version: Version, kind: str) -> None:
        self._new[version.tenant, version.adapter][version.number, kind] += 1

    async def run(self) -> None:
        """Evaluate the adapters with new outcomes every JUDGE_INTERVAL_S, until cancelled."""
        while True:
            await asyncio.sleep(JUDGE_INTERVAL_S)
            for tenant, adapter in list(self._new):
                try:
                    await self._judge(await self._registry.aliases.get(tenant, adapter))
                except RegistryUnavailable:
                    continue  # judged when the database answers again
                except (AdapterError, SQLAlchemyError, OSError):
                    logger.exception(
                        "A canary could not be evaluated; the next outcome tries again.",
                        extra={"model": f"{tenant}-{adapter}"},
                    )

    async def _judge(self, alias: Alias) -> None:
        key = (alias.tenant, alias.adapter)
        split = self._splits.get(key)
        if len(alias.targets) < 2 or split is None or split.generation != alias.generation:
            known = split is not None
            self._splits[key] = split = _Split(alias.generation)
            if known or len(alias.targets) < 2:  # outcomes under another split do not apply to this one
                self._new.pop(key, None)
                return
        breach = await self._breach(alias, split)
        if breach is None:
            return
        name = f"{alias.tenant}-{alias.adapter}"
        logger.error("Rolling back a canary: %s", breach, extra={"model": name})
        # The other targets get the traffic, not the version before the split: that may be the canary itself.
        others = [target for target in alias.targets if target.number != breach.number]
        with suppress(AliasConflict):  # another server was quicker, or an operator
            await self._lifecycle.split(
                alias.tenant,
                alias.adapter,
                others,
                by=ACTOR,
                expected_generation=alias.generation,
                reason=str(breach),
            )
            self.rollbacks += 1

    async def _breach(self, alias: Alias, split: _Split) -> Breach | None:
        """What is wrong, by the answers of this server or, where several share the registry, of all."""
        began = (alias.updated_at or utc_now()).replace(second=0, microsecond=0)
        window = timedelta(seconds=self._limits.window_s)
        passed = max(0, (utc_now() - began) // window)
        new = self._new.pop((alias.tenant, alias.adapter), Counter())
        if self._registry.membership.is_shared:
            whole, recent = await self._shared(alias, new, began + passed * window)
        else:
            if split.window_number != passed + 1:
                split.window, split.window_number = {}, passed + 1
            for (number, kind), count in new.items():
                for counts in (split.whole, split.window):
                    counts.setdefault(number, Counter())[kind] += count
            whole, recent = split.whole, split.window
        return find_breach(alias, spans(whole, recent, passed + 1), self._limits)

    async def _shared(
        self, alias: Alias, new: Counter[tuple[int, str]], since: datetime
    ) -> tuple[dict[int, Counts], dict[int, Counts]]:
        """Add what is new; the counts of all servers, since the split and since the window's start."""
        outcomes = self._registry.outcomes
        try:
            await outcomes.add(alias, new)
        except RegistryUnavailable:
            self._new[alias.tenant, alias.adapter] += new
            raise
        return await outcomes.totals(alias), await outcomes.totals(alias, since)


def _outcome(context: RequestContext, status: int) -> Outcome:
    usage, reasons = context.usage, context.usage.finish_reasons
    if status >= 500 or "error" in reasons or not reasons:
        return Outcome.ERROR
    if usage.has_form or any(context.sampling.origins.get(name) == "request" for name in _FORCING):
        return Outcome.GOOD
    if usage.answers_looped or usage.answers_steered or REPETITION in reasons:
        return Outcome.REPEATING
    # The end token is counted too: an answer of one token is empty.
    if usage.generated_tokens <= len(reasons) and "stop" in reasons:
        return Outcome.EMPTY
    return Outcome.GOOD

"""Shadow traffic: a part of an adapter's requests is answered by another version, too, in the background class.

A copy is made only of a request that was answered completely, after its last token, so it can neither delay nor fail
it. It is dropped where no place is free: nothing piles up. Nobody sees the copy's answer; of both answers only sums
of a few metrics are kept, and texts only where the tenant has consented (`texts`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from adapters.errors import AdapterError, RegistryUnavailable
from adapters.models import Tenant
from adapters.registry import Registry
from server.admission import Admission
from server.background.evaluations.requests import BackgroundRequests
from server.background.shadows.answers import ShadowedAnswer, compare, sums
from server.background.shadows.texts import TextKeeper
from server.errors import LoragateError
from server.request.context import RequestContext, ShadowTarget

logger = logging.getLogger("loragate.shadows")

#: How often the sums are stored.
FLUSH_INTERVAL_S = 5.0
#: Copies that wait or run: of all adapters, and of one.
_AT_ONCE, _PER_ADAPTER = 16, 4
#: Longer prompts are not copied: they are in memory until their copy has ended.
_MAX_PROMPT_TOKENS = 16_384
#: A copy is made only while more than this part of its caller's token budget is left, which is for requests.
_BUDGET_LEFT = 0.5

_Key = tuple[str, str, int, int]  # tenant, adapter, shadow version, served version


class ShadowTraffic:
    """Makes the copies, runs them, and adds up what is compared.

    Args:
        registry: where the sums are stored.
        requests: the server's own requests.
        admission: knows the budgets.
        texts: keeps them, where the tenant consents.
    """

    def __init__(
        self, registry: Registry, requests: BackgroundRequests, admission: Admission, texts: TextKeeper
    ) -> None:
        self._registry = registry
        self._requests = requests
        self._admission = admission
        self._texts = texts
        self._seen: Counter[_Key] = Counter()
        self._sent: Counter[_Key] = Counter()
        self._running: Counter[tuple[str, str]] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sums: defaultdict[_Key, dict[str, tuple[float, ...]]] = defaultdict(dict)

    def begin(self, context: RequestContext, prompt: Any, params: Any) -> Shadowed | None:
        """Note the answer to this generation for a copy; None where it gets none. Called by `Gate.generate`."""
        shadow = context.target.shadow
        if shadow is None or context.background or not _can_be_copied(prompt, params):
            return None
        key = _key(context, shadow)
        self._seen[key] += 1
        # By chance, and never more than the share of what was seen.
        if random.random() >= shadow.share or self._sent[key] + 1 > shadow.share * self._seen[key]:
            return None
        self._sent[key] += 1
        return Shadowed(self, context, shadow, list(prompt["prompt_token_ids"]), params.clone())

    def send(self, copied: Shadowed) -> None:
        """Run the copy of a request that was answered, if there is a place."""
        adapter = (copied.shadow.version.tenant, copied.shadow.version.adapter)
        if len(self._tasks) >= _AT_ONCE or self._running[adapter] >= _PER_ADAPTER:
            return
        self._running[adapter] += 1
        task = asyncio.create_task(self._run(copied), name="shadow")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(adapter, done))

    async def flush(self) -> None:
        """Store the sums. Raises: RegistryUnavailable: they are kept."""
        for key in list(self._sums):
            added = self._sums.pop(key)
            try:
                await self._registry.shadows.add(*key, added)
            except BaseException:  # also when it is cancelled: the sums are kept
                self._add(key, added)
                raise

    async def aclose(self) -> None:
        """End all copies, and store the sums."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.flush()
        except (RegistryUnavailable, SQLAlchemyError):
            logger.warning(
                "The last sums of shadow traffic are lost: the registry's database does not answer."
            )

    async def _run(self, copied: Shadowed) -> None:
        context, shadow = copied.context, copied.shadow
        answer = ShadowedAnswer()
        try:
            asker = await self._asker(shadow)
            body = {"prompt_token_ids": copied.prompt, "sampling_params": copied.params, "answer": answer}
            reasons = await self._requests.copy(
                asker, shadow.version, body, repetition=context.sampling.repetition
            )
        except (LoragateError, AdapterError) as error:
            logger.info("A copy of a request is not answered: %s", error)
            return
        answer.finish_reason = reasons[-1] if reasons else None  # the stream has the public one
        key = _key(context, shadow)
        self._add(key, sums(compare(copied.answer, answer)))
        if copied.answer.token_ids != answer.token_ids:
            await self._keep_texts(key, copied, answer)

    async def _keep_texts(self, key: _Key, copied: Shadowed, answer: ShadowedAnswer) -> None:
        """A failure costs the texts only."""
        tenant, adapter, *versions = key
        answers = copied.answer.token_ids, answer.token_ids
        try:
            await self._texts.keep(tenant, adapter, (versions[0], versions[1]), copied.prompt, answers)
        except (LoragateError, AdapterError, SQLAlchemyError) as error:
            logger.info("Texts of a copy are not kept: %s", error)

    async def _asker(self, shadow: ShadowTarget) -> Tenant | None:
        """Raises: BudgetExhausted: what is left of the budget is for requests."""
        if not shadow.caller:
            return None
        tenant = await self._registry.tenants.get(shadow.caller)
        self._admission.check_budget_left(tenant.name, tenant.settings, _BUDGET_LEFT)
        return tenant

    def _add(self, key: _Key, added: dict[str, tuple[float, ...]]) -> None:
        known = self._sums[key]
        for metric, values in added.items():
            before = known.get(metric, (0.0,) * len(values))
            known[metric] = tuple(one + other for one, other in zip(before, values, strict=True))

    def _ended(self, adapter: tuple[str, str], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._running[adapter] -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("A copy of a request failed.", exc_info=error)


@dataclass(slots=True, eq=False)
class Shadowed:
    """A request that gets a copy, and its own answer as it comes (`server.request.metering.Shadowed`)."""

    traffic: ShadowTraffic
    context: RequestContext
    shadow: ShadowTarget
    prompt: list[int]
    params: Any
    answer: ShadowedAnswer = field(default_factory=ShadowedAnswer)

    def add(self, output: Any, now: float) -> None:
        """Note one output."""
        self.answer.add(output, now)

    def end(self) -> None:
        """The request was answered: its copy may run."""
        self.traffic.send(self)


def _can_be_copied(prompt: Any, params: Any) -> bool:
    """Text with one answer in a free form; pictures, several answers, grammars and scores are left out."""
    ids = prompt.get("prompt_token_ids") or ()
    is_text = 0 < len(ids) <= _MAX_PROMPT_TOKENS and prompt.get("type", "token") == "token"
    return is_text and params.n == 1 and params.structured_outputs is None and params.prompt_logprobs is None


def _key(context: RequestContext, shadow: ShadowTarget) -> _Key:
    served, version = context.target.version, shadow.version
    assert served is not None, "only adapters have shadows"
    return version.tenant, version.adapter, version.number, served.number

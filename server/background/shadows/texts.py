"""Keeps the texts of requests to which the shadow answered differently, where the adapter's tenant consents.

Personal data and secrets are replaced as in the tenant's records, also by the tenant's own patterns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from adapters.registry import Registry
from adapters.registry.database import utc_now
from adapters.registry.figures.shadow_texts import ShadowPair
from adapters.training.evaluation.held_out import tokenizer_of
from sampling.limits import Limits
from server.fairness.shares import background_name
from server.usage.records.redaction import Redactor

logger = logging.getLogger("loragate.shadows")

FORGET_INTERVAL_S = 3600.0
#: Of each text: the end of the prompt, the beginning of the answers.
MOST_CHARACTERS = 4000
#: Tokens that are decoded for it; a token of ordinary text has more than one character.
_MOST_TOKENS = MOST_CHARACTERS
#: A tenant's own patterns may take any time.
_LIMIT_S = 5

Result = TypeVar("Result")


class Workers(Protocol):
    """The worker processes for work that grows with a tenant's text (`PromptWorkers`)."""

    async def run(self, tenant: str, limits: Limits, task: Callable[..., Result], *arguments: Any) -> Result:
        """Run a function of a module. Raises: LoragateError."""


@dataclass(frozen=True, slots=True, eq=False)
class TextKeeper:
    """Decodes and stores texts.

    Attributes:
        registry: has the texts, the consents, and the tenants' patterns.
        workers: those of the running engine; raises EngineUnavailable while there is none.
        base: the folder of the base model, whose tokenizer decodes; None where it is not known.
        limits: the operator's, for the workers.
    """

    registry: Registry
    workers: Callable[[], Workers]
    base: Path | None
    limits: Limits

    async def keep(
        self,
        tenant: str,
        adapter: str,
        versions: tuple[int, int],
        prompt: Sequence[int],
        answers: tuple[Sequence[int], Sequence[int]],
    ) -> None:
        """Keep the texts of one request, if its tenant consents.

        Args:
            versions: the shadow's number, and the served one's.
            prompt: token ids.
            answers: the served one's token ids, and the shadow's.

        Raises: RegistryUnavailable, LoragateError.
        """
        store = self.registry.shadow_texts
        if self.base is None or await store.consented(tenant, adapter) is None:
            return
        records = (await self.registry.tenants.get(tenant)).settings.records
        patterns = records.patterns if records else ()
        limits = replace(self.limits, render_s=_LIMIT_S)
        ids = [list(prompt)[-_MOST_TOKENS:], *(list(answer)[:_MOST_TOKENS] for answer in answers)]
        name = background_name(tenant)
        texts = await self.workers().run(name, limits, readable_texts, self.base, patterns, *ids)
        await store.keep(tenant, adapter, ShadowPair(*versions, utc_now(), *texts))


def readable_texts(
    base: Path, patterns: Sequence[str], prompt: list[int], served: list[int], shadow: list[int]
) -> tuple[str, str, str]:
    """The texts, redacted and then cut to what is kept. Runs in a worker process."""
    decode, redacted = tokenizer_of(base).decode, Redactor(patterns).text
    return (
        redacted(_storable(decode(prompt)))[-MOST_CHARACTERS:],
        redacted(_storable(decode(served)))[:MOST_CHARACTERS],
        redacted(_storable(decode(shadow)))[:MOST_CHARACTERS],
    )


def _storable(text: str) -> str:
    """PostgreSQL stores no null characters."""
    return text.replace("\0", "\ufffd")

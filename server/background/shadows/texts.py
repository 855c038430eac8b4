"""Keeps the texts of requests to which the shadow answered differently, where the adapter's tenant consents."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from adapters.registry.database import utc_now
from adapters.registry.figures.shadow_texts import ShadowPair, ShadowTexts
from adapters.training.evaluation.held_out import tokenizer_of
from sampling.limits import Limits
from server.fairness.shares import background_name

logger = logging.getLogger("loragate.shadows")

FORGET_INTERVAL_S = 3600.0
#: Of each text: the end of the prompt, the beginning of the answers.
MOST_CHARACTERS = 4000
#: Tokens that are decoded for it; a token of ordinary text has more than one character.
_MOST_TOKENS = MOST_CHARACTERS

Result = TypeVar("Result")


class Workers(Protocol):
    """The worker processes for work that grows with a tenant's text (`PromptWorkers`)."""

    async def run(self, tenant: str, limits: Limits, task: Callable[..., Result], *arguments: Any) -> Result:
        """Run a function of a module. Raises: LoragateError."""


@dataclass(frozen=True, slots=True, eq=False)
class TextKeeper:
    """Decodes and stores texts.

    Attributes:
        store: where they are kept, and the consents.
        workers: those of the running engine; raises EngineUnavailable while there is none.
        base: the folder of the base model, whose tokenizer decodes; None where it is not known.
        limits: the operator's, for the workers.
    """

    store: ShadowTexts
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
        if self.base is None or await self.store.consented(tenant, adapter) is None:
            return
        ids = [list(prompt)[-_MOST_TOKENS:], *(list(answer)[:_MOST_TOKENS] for answer in answers)]
        texts = await self.workers().run(background_name(tenant), self.limits, decode_texts, self.base, *ids)
        await self.store.keep(tenant, adapter, ShadowPair(*versions, utc_now(), *texts))


def decode_texts(base: Path, prompt: list[int], served: list[int], shadow: list[int]) -> tuple[str, str, str]:
    """The texts, cut to what is kept. Runs in a worker process."""
    decode = tokenizer_of(base).decode
    return (
        _storable(decode(prompt))[-MOST_CHARACTERS:],
        _storable(decode(served))[:MOST_CHARACTERS],
        _storable(decode(shadow))[:MOST_CHARACTERS],
    )


def _storable(text: str) -> str:
    """PostgreSQL stores no null characters."""
    return text.replace("\0", "\ufffd")

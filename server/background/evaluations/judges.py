"""Language models that score the answers of an evaluation, at addresses that the operator has set.

An answer is compared with the expected one in both orders, as the trainer's judge compares two versions
(`adapters.training.evaluation.llm_judge`). A judge that does not answer costs the score and not the evaluation.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import openai

from adapters.promotion.errors import EvaluationRefused
from adapters.training.evaluation.held_out import AnswerText
from adapters.training.evaluation.llm_judge import Verdict, points, question, verdict_in
from server.background.evaluations.figures import NOT_JUDGED, POINTS, UNCLEAR
from server.config.judges import JudgeModel

logger = logging.getLogger("loragate.evaluations")

#: Questions to one judge at the same time, by all evaluations of this server.
_AT_ONCE = 4
#: One attempt of a question, and how often it is repeated.
_TIMEOUT_S, _RETRIES = 60.0, 2
#: All questions of one evaluation together.
_MOST_S = 3600.0


class Judges:
    """The judges of this server.

    Args:
        models: by name, as the operator has set them.
        keys: their API keys, by name.
    """

    def __init__(self, models: Mapping[str, JudgeModel], keys: Mapping[str, str]) -> None:
        self._models = models
        self._keys = keys
        self._clients: dict[str, openai.AsyncOpenAI] = {}
        self._places = {name: asyncio.Semaphore(_AT_ONCE) for name in models}

    def check(self, name: str | None) -> None:
        """Raises: EvaluationRefused: no judge has this name."""
        if name is not None and name not in self._models:
            known = ", ".join(sorted(self._models)) or "none"
            raise EvaluationRefused(
                f"There is no judge {name!r} on this server; there is: {known}. The operator sets them with --judges."
            )

    def begin(self, name: str | None) -> Judging | None:
        """What scores the answers of one evaluation; None without a judge."""
        return None if name is None else Judging(self, name)

    async def prefer(self, name: str, conversation: str, first: str, second: str) -> Verdict | None:
        """The better answer, in this order; None if the reply has no verdict.

        Raises: openai.OpenAIError: it does not answer; KeyError: there is no such judge any more.
        """
        judge = self._models[name]
        async with self._places[name]:
            reply = await self._client(name).chat.completions.create(
                **question(judge.model, conversation, "", first, second)
            )
        return verdict_in(reply.choices[0].message.content if reply.choices else None)

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()

    def _client(self, name: str) -> openai.AsyncOpenAI:
        """Made when it is needed: a client takes 50 ms. Redirects are not followed: they could lead anywhere."""
        if name not in self._clients:
            self._clients[name] = openai.AsyncOpenAI(
                base_url=self._models[name].url,
                api_key=self._keys[name]
                or "none",  # the client requires one; servers without keys accept any
                timeout=_TIMEOUT_S,
                max_retries=_RETRIES,
                http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
            )
        return self._clients[name]


class Judging:
    """The judge's part of one evaluation; after its first failure it asks no more."""

    def __init__(self, judges: Judges, name: str) -> None:
        self._judges = judges
        self._name = name
        self._reason = ""
        self._took_s = 0.0

    async def judge(self, answers: Sequence[AnswerText]) -> list[dict[str, Any]]:
        """For each answer its points against the expected one, or why it has none."""
        began_s = time.monotonic()
        found: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(max(0.0, _MOST_S - self._took_s)):
                if not self._reason:
                    found = await self._ask_all(answers)
        except TimeoutError:
            self._reason = f"The judge {self._name} took more than {_MOST_S / 60:g} minutes."
        except (openai.OpenAIError, KeyError) as error:
            self._reason = _reason(self._name, error)
            logger.warning("%s (%s)", self._reason, error)
        self._took_s += time.monotonic() - began_s
        return found or [{NOT_JUDGED: self._reason} for _ in answers]

    async def _ask_all(self, answers: Sequence[AnswerText]) -> list[dict[str, Any]]:
        """Raises: openai.OpenAIError, KeyError: the first failure; the other questions end."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(answer)) for answer in answers]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return [task.result() for task in tasks]

    async def _ask(self, text: AnswerText) -> dict[str, Any]:
        """Equal answers are a tie without a question."""
        if text.answer == text.expected:
            return {POINTS: 0.5, UNCLEAR: 0}
        prefer, name = self._judges.prefer, self._name
        one = await prefer(name, text.conversation, text.answer, text.expected)
        other = await prefer(name, text.conversation, text.expected, text.answer)
        return {POINTS: points(one, other), UNCLEAR: (one is None) + (other is None)}


def _reason(name: str, error: Exception) -> str:
    """For whoever asked: no address."""
    if isinstance(error, KeyError):
        return f"There is no judge {name} on this server any more."
    if isinstance(error, openai.APIStatusError):
        return f"The judge {name} answered with status {error.status_code}."
    if isinstance(error, openai.APITimeoutError):
        return f"The judge {name} did not answer within {_TIMEOUT_S:g} s."
    return f"The judge {name} cannot be reached ({type(error).__name__})."

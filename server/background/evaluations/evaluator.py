"""One evaluation: its chats become turns, the version answers them, and the answers become figures.

What is found of each turn is stored as soon as its slice of the chats is complete, so an evaluation that was
interrupted goes on with the turns that are left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from adapters.errors import EngineGone, RegistryUnavailable, ResidencyBusy
from adapters.models import Tenant, Version
from adapters.promotion.errors import EvaluationRefused
from adapters.registry.figures.evaluations import Evaluation, Evaluations, EvaluationState
from adapters.training.evaluation import held_out
from adapters.training.evaluation.held_out import AnswerText, HeldOutTurn, Rendering, UnusableData
from adapters.training.evaluation.metrics import AnswerFacts
from sampling.limits import Limits
from server.admission.errors import BudgetExhausted, NeverFits, TryLater
from server.background.evaluations.data_files import DataFiles, Slice
from server.background.evaluations.figures import facts_of_turn, figures_of
from server.background.evaluations.judges import Judges, Judging
from server.background.evaluations.requests import BackgroundRequests
from server.errors import EngineUnavailable, TooManyLargeRequests
from server.fairness.shares import background_name

logger = logging.getLogger("loragate.evaluations")

#: Turns of one evaluation that are in the engine at the same time; its scheduler decides how many of them run.
_TURNS_AT_ONCE = 16
#: Tokens of all prompts and expected answers of one evaluation; they are in memory while it runs.
_MAX_TOKENS = 2_000_000
#: How long it waits after a refusal that passes, at first and at most.
_WAIT_S, _MAX_WAIT_S = 1.0, 30.0
#: How long it waits for a part of a budget: what running work has reserved, or other servers hold, comes back.
_BUDGET_WAIT_S = 60.0
_PASSING = (EngineUnavailable, EngineGone, ResidencyBusy, RegistryUnavailable, TryLater, TooManyLargeRequests)

Result = TypeVar("Result")


class Workers(Protocol):
    """The worker processes for work that grows with a tenant's text (`PromptWorkers`)."""

    async def run(self, tenant: str, limits: Limits, task: Callable[..., Result], *arguments: Any) -> Result:
        """Run a function of a module. Raises: LoragateError; what the task raises."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A slice of the chats, its first turns as far as they are evaluated, and the number of the first one."""

    slice: Slice
    turns: Sequence[HeldOutTurn]
    first: int


@dataclass(frozen=True, slots=True, eq=False)
class Evaluator:
    """Runs evaluations.

    Attributes:
        store: where facts and figures are stored.
        requests: answers of the versions.
        workers: those of the running engine; raises EngineUnavailable while there is none.
        limits: the operator's, for the workers.
        max_model_len: the longest prompt plus answer; None while it is not known.
        judges: the models that may score answers.
    """

    store: Evaluations
    requests: BackgroundRequests
    files: DataFiles
    workers: Callable[[], Workers]
    limits: Limits
    max_model_len: Callable[[], int | None]
    judges: Judges

    async def run(
        self, evaluation: Evaluation, version: Version, asker: Tenant | None, rendering: Rendering
    ) -> None:
        """Run it to its end, from where it was left; its facts and figures are stored.

        Raises:
            EvaluationRefused: the chats cannot be used.
            LoragateError, AdapterError: what waiting does not change.
        """
        slices = await asyncio.to_thread(self.files.slices, evaluation.id)
        parts, end_id = await self._read(evaluation, slices, rendering)
        total = sum(len(part.turns) for part in parts)
        await self.store.set_turns(evaluation.id, total)
        known = await self.store.facts(evaluation.id)
        job = _Job(
            self, evaluation, version, asker, end_id, self.judges.begin(evaluation.options.get("judge"))
        )
        for part in parts:
            if all(part.first + at in known for at in range(len(part.turns))):
                continue
            facts = await job.evaluate(part, rendering)
            if not await self.store.add_facts(evaluation, facts):
                return  # it was cancelled, or another server runs it
            known |= facts
        figures = figures_of(list(known.values()))
        await self.store.end(evaluation, EvaluationState.FINISHED, figures=figures)

    async def _read(
        self, evaluation: Evaluation, slices: Sequence[Slice], rendering: Rendering
    ) -> tuple[list[_Part], int]:
        """The first turns of the chats, and the id that ends an answer. Raises: EvaluationRefused."""
        parts: list[_Part] = []
        wanted, found, tokens, end_id = int(evaluation.options["turns"]), 0, 0, 0
        for each in slices:
            read = await self._in_worker(
                evaluation, held_out.read_turns, each.raw, each.first_line, rendering
            )
            turns, end_id = read.turns[: wanted - found], read.end_id
            tokens += sum(len(turn.prompt) + len(turn.target) for turn in turns)
            if tokens > _MAX_TOKENS:
                raise EvaluationRefused(
                    f"The chats have more than {_MAX_TOKENS} tokens, the most of an evaluation. Evaluate fewer turns."
                )
            if turns:
                parts.append(_Part(each, turns, found))
            found += len(turns)
            if found >= wanted:
                break
        if not parts:
            raise EvaluationRefused("The chats have no turn of an assistant. Send chats with answers.")
        return parts, end_id

    async def _in_worker(
        self, evaluation: Evaluation, task: Callable[..., Result], *arguments: Any
    ) -> Result:
        """Raises: EvaluationRefused: a line cannot be used."""
        tenant = background_name(evaluation.caller)
        try:
            return await persistently(lambda: self.workers().run(tenant, self.limits, task, *arguments))
        except UnusableData as error:
            raise EvaluationRefused(str(error)) from error

    async def compare(
        self, evaluation: Evaluation, part: _Part, rendering: Rendering, answers: Sequence[Sequence[int]]
    ) -> list[AnswerFacts]:
        """What the answers to a part's turns are worth."""
        raw, first_line = part.slice.raw, part.slice.first_line
        return await self._in_worker(
            evaluation, held_out.compare_answers, raw, first_line, rendering, [list(a) for a in answers]
        )

    async def texts(
        self, evaluation: Evaluation, part: _Part, rendering: Rendering, answers: Sequence[Sequence[int]]
    ) -> list[AnswerText]:
        """The answers to a part's turns as text, for a judge."""
        raw, first_line = part.slice.raw, part.slice.first_line
        return await self._in_worker(
            evaluation, held_out.answer_texts, raw, first_line, rendering, [list(a) for a in answers]
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """What stays the same for all turns of an evaluation."""

    evaluator: Evaluator
    evaluation: Evaluation
    version: Version
    asker: Tenant | None
    end_id: int
    judging: Judging | None

    async def evaluate(self, part: _Part, rendering: Rendering) -> dict[int, Mapping[str, Any]]:
        """The facts of a part's turns, by the turn's number."""
        places = asyncio.Semaphore(_TURNS_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._turn(turn, places)) for turn in part.turns]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        results = [task.result() for task in tasks]
        answers = [answer or [] for answer, _ in results]
        compared = await self.evaluator.compare(self.evaluation, part, rendering, answers)
        judged = await self._judge(part, rendering, answers)
        return {
            part.first + at: facts_of_turn(facts, answer, likelihood, len(turn.target)) | verdict
            for at, (turn, (answer, likelihood), facts, verdict) in enumerate(
                zip(part.turns, results, compared, judged, strict=True)
            )
        }

    async def _judge(
        self, part: _Part, rendering: Rendering, answers: Sequence[Sequence[int]]
    ) -> list[dict[str, Any]]:
        if self.judging is None:
            return [{} for _ in answers]
        texts = await self.evaluator.texts(self.evaluation, part, rendering, answers)
        return await self.judging.judge(texts)

    async def _turn(
        self, turn: HeldOutTurn, places: asyncio.Semaphore
    ) -> tuple[list[int] | None, float | None]:
        """The answer and the log-likelihood of the expected one; None for both where the turn is too long."""
        longest = self.evaluator.max_model_len()
        if longest is not None and len(turn.prompt) + len(turn.target) >= longest:
            return None, None
        room = (longest or len(turn.prompt) + 1) - len(turn.prompt)
        max_tokens = min(int(self.evaluation.options["max_tokens"]), max(room, 1))
        async with places:
            try:
                return await self._ask(turn, max_tokens)
            except NeverFits as error:
                if error.limit != "kv_limit":
                    raise
                return None, None

    async def _ask(self, turn: HeldOutTurn, max_tokens: int) -> tuple[list[int], float]:
        ask = self.evaluator.requests
        answer = await persistently(
            lambda: ask.answer(
                self.asker, self.version, turn.prompt, max_tokens=max_tokens, end_id=self.end_id
            )
        )
        likelihood = await persistently(
            lambda: ask.log_likelihood(self.asker, self.version, turn.prompt, turn.target)
        )
        return answer, likelihood


async def persistently(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Repeat an attempt that is refused for a reason that passes; a budget that stays used up is none."""
    wait_s, without_budget_s = _WAIT_S, 0.0
    while True:
        try:
            return await attempt()
        except BudgetExhausted:
            without_budget_s += wait_s
            if without_budget_s > _BUDGET_WAIT_S:
                raise
        except _PASSING as error:
            logger.info("An evaluation waits %g s: %s", wait_s, error)
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, _MAX_WAIT_S)

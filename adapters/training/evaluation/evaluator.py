"""Evaluations during a training: what is evaluated, which weights were best, and when patience is used up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adapters.training.data.chat_template import Conversation, Renderer, Turn, fold
from adapters.training.data.jsonl import read_steps
from adapters.training.errors import CheckpointError
from adapters.training.evaluation.generate import answer_turns
from adapters.training.evaluation.generations import Changes, Generation, Generations
from adapters.training.evaluation.held_out_pairs import HeldOutPairs
from adapters.training.evaluation.loss import held_out_loss
from adapters.training.evaluation.metrics import (
    Evaluation,
    Score,
    held_out_turns,
    perplexity,
    score,
)

#: The answers of every evaluation, one line each.
GENERATIONS_LOG = "generations.jsonl"

#: Held-out turns whose loss is computed, if no more are answered.
LOSS_TURNS = 200


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The loss over some turns, and the score of their answers (None if none were generated)."""

    loss: float
    score: Score | None

    def as_dict(self) -> dict[str, Any]:
        """For ``training.json``."""
        rounded = {"loss": round(self.loss, 4), "perplexity": round(perplexity(self.loss), 4)}
        return (asdict(self.score) if self.score else {}) | rounded


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Turns to evaluate a model on, and what rendering and generating them needs.

    The loss is over all ``turns``; the first ``answered`` of them are answered.
    """

    renderer: Renderer
    turns: Sequence[Turn]
    answered: int
    max_new_tokens: int

    @classmethod
    def of(
        cls, renderer: Renderer, chats: Sequence[Conversation], answered: int, max_new_tokens: int
    ) -> EvaluationSet | None:
        """The first turns of ``chats``, at least ``LOSS_TURNS`` if there are so many; None if there is none."""
        turns = held_out_turns(renderer, chats, max(answered, LOSS_TURNS))
        turns = [t for t in turns if t.sample().trained_tokens]
        return cls(renderer, turns, answered, max_new_tokens) if turns else None

    def loss(self, model: Any) -> float:
        """Loss of ``model`` over all turns. The turns of one chat share a forward pass, as in training."""
        samples, _ = fold(self.turns, sys.maxsize)
        return held_out_loss(model, samples, self.renderer.pad_id)

    def generations(self, model: Any, limit: int) -> Generations | None:
        """The answers to the first ``limit`` turns; None for no turns."""
        turns = self.turns[:limit]
        return Generations.of(self.renderer, turns, self.answers(model, turns)) if turns else None

    def answers(
        self, model: Any, turns: Sequence[Turn], progress: Callable[[int], None] = lambda answered: None
    ) -> list[tuple[int, ...]]:
        """The greedy answers of ``model`` to ``turns``."""
        return answer_turns(model, self.renderer, turns, self.max_new_tokens, progress)

    def compare_with_base(
        self, model: Any, progress: Callable[[int], None] = lambda answered: None
    ) -> tuple[EvaluationResult, EvaluationResult]:
        """The results of the base alone and of the adapter, for a PEFT model.

        ``progress`` gets the number of turns answered since the last call, ``2 * answered`` in all.
        """
        with model.disable_adapter():
            base = self._result(model, progress)
        return base, self._result(model, progress)

    def _result(self, model: Any, progress: Callable[[int], None]) -> EvaluationResult:
        turns = self.turns[: self.answered]
        found = score(self.renderer, turns, self.answers(model, turns, progress)) if turns else None
        return EvaluationResult(self.loss(model), found)


class Evaluator:
    """Evaluates a model, keeps the best weights on disk, and reports when patience is used up.

    It survives a kill: earlier evaluations are read back from ``evaluations.jsonl``, and the steps after the
    checkpoint are taken, and evaluated, again.
    """

    def __init__(
        self,
        held_out: EvaluationSet,
        general: EvaluationSet | None,
        *,
        folder: Path,
        answered_turns: int,
        best_by: str,
        patience: int,
        pairs: HeldOutPairs | None = None,
        win_rate: Callable[[Sequence[Generation], Sequence[Generation]], float | None] = lambda old, new: (
            None
        ),
    ) -> None:
        self._held_out = held_out
        self._general = general
        self._best_file = folder / "checkpoints" / "best.safetensors"
        self._log = folder / "evaluations.jsonl"
        self._generations_log = folder / GENERATIONS_LOG
        self._answered_turns = answered_turns
        self._best_by = best_by
        self._patience = patience
        self._pairs = pairs
        self._win_rate = win_rate
        self._base: tuple[float, Score | None] | None = None
        self._previous: Sequence[Generation] = ()  # of the evaluation before, of the base at first
        # In memory, because processes that train together must decide alike; None: not read from the log yet.
        self._rows: list[dict[str, Any]] | None = None

    def __call__(self, model: Any, step: int) -> tuple[Evaluation, bool]:
        """Evaluate ``model`` after ``step``; True if the last ``patience`` evaluations brought no better one."""
        base_loss, base_score = self._evaluate_base(model)
        generations = self._held_out.generations(model, self._answered_turns)
        evaluation = Evaluation(
            step,
            self._held_out.loss(model),
            generations.score if generations else None,
            self._general.loss(model) if self._general else None,
            base_loss,
            base_score,
            self._compare(generations.rows) if generations else None,
            generations.rows if generations else (),
            self._pairs.score(model) if self._pairs else None,
        )
        if self._rows is None:
            self._rows = [row for row in read_steps(self._log) if row["step"] < step]
        best = max(self._rows, key=self._key, default=None)
        self._rows.append(evaluation.as_dict())
        if best is None or self._key(self._rows[-1]) > self._key(best):
            if PartialState().is_main_process:
                self._save(model, step)
            return evaluation, False
        worse = sum(row["step"] > best["step"] for row in self._rows)
        return evaluation, 0 < self._patience <= worse

    def best_step(self) -> int | None:
        """The step with the best evaluation; None before the first one."""
        rows = read_steps(self._log) if self._rows is None else self._rows
        best = max(rows, key=self._key, default=None)  # the first of equal ones
        return best["step"] if best else None

    def losses_of(self, step: int) -> dict[str, dict[str, Any]] | None:
        """The losses of base and adapter at ``step``, for ``training.json``; None if it was not evaluated."""
        rows = read_steps(self._log) if self._rows is None else self._rows
        row = next((row for row in reversed(rows) if row["step"] == step), None)
        base = row["base"].get("held_out_loss") if row else None
        if row is None or base is None:
            return None
        both = (("base", base), ("adapter", row["held_out_loss"]))
        return {side: EvaluationResult(loss, None).as_dict() for side, loss in both}

    def restore_best(self, model: Any) -> None:
        """Load the weights of the best evaluation into ``model``.

        Raises:
            CheckpointError: the saved weights are missing or of another step than the log says.
        """
        if not self._best_file.is_file() or _step_in(self._best_file) != self.best_step():
            raise CheckpointError(
                f"{self._best_file.name} is missing or not of step {self.best_step()}, the best one. Train into "
                "another folder, or with --keep last."
            )
        set_peft_model_state_dict(model, load_file(str(self._best_file)))

    def _evaluate_base(self, model: Any) -> tuple[float, Score | None]:
        """Loss and score of the base alone; it does not change, so it is evaluated once."""
        if self._base is None:
            with model.disable_adapter():
                generations = self._held_out.generations(model, self._answered_turns)
                self._base = self._held_out.loss(model), generations.score if generations else None
            self._previous = self._logged() or (generations.rows if generations else ())
        return self._base

    def _compare(self, now: Sequence[Generation]) -> Changes | None:
        """The changes from the evaluation before, which ``now`` then becomes."""
        before, self._previous = self._previous, now
        if len(before) != len(now):
            return None
        return replace(Changes.between(before, now), win_rate=self._win_rate(before, now))

    def _logged(self) -> list[Generation]:
        """The answers of the last evaluation of a training that was interrupted."""
        rows = read_steps(self._generations_log)
        names = [field.name for field in fields(Generation)]
        return [Generation(**{n: row[n] for n in names}) for row in rows if row["step"] == rows[-1]["step"]]

    def _save(self, model: Any, step: int) -> None:
        self._best_file.parent.mkdir(parents=True, exist_ok=True)
        # Without embeddings: otherwise peft asks the hub whether they changed.
        weights = get_peft_model_state_dict(model, save_embedding_layers=False)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        partial = self._best_file.with_suffix(".part")
        save_file(tensors, str(partial), metadata={"step": str(step)})
        partial.replace(self._best_file)

    def _key(self, row: dict[str, Any]) -> tuple[float, float]:
        """Greater is better; the loss decides between equal shares of exact answers."""
        exact = float(row.get("exact", 0.0)) if self._best_by == "exact" else 0.0
        return exact, -float(row.get("preference_loss", row["held_out_loss"]))


def _step_in(path: Path) -> int:
    with safe_open(str(path), framework="pt") as file:
        return int(file.metadata()["step"])

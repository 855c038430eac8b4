"""Held-out chats for a server that generates the answers itself: their turns as token ids, and the facts of answers.

The functions take a few lines of a data file and run in a worker process: what they do grows with a tenant's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from inspect import signature
from pathlib import Path
from typing import Any

from adapters.training.data.chat_template import Conversation, Renderer, Turn
from adapters.training.data.reader import parse_conversation
from adapters.training.errors import DataError, TemplateError
from adapters.training.evaluation.generations import answer_text, conversation_text
from adapters.training.evaluation.metrics import AnswerFacts, facts_of

#: Ends an answer where the adapter does not say what does; the trainer's default.
DEFAULT_END_TOKEN = "<|im_end|>"  # noqa: S105  (no password)


@dataclass(frozen=True, slots=True)
class Rendering:
    """How chats are rendered: with the base's tokenizer and template, as in the training of the adapter.

    ``chat_template``: the one that is served in place of the tokenizer's own.
    """

    base: Path
    end_token: str
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class HeldOutTurn:
    """The ids of a prompt and of the expected answer, through its end token."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HeldOutTurns:
    """The turns of some lines, and the id that ends an answer."""

    turns: tuple[HeldOutTurn, ...]
    end_id: int


@dataclass(frozen=True, slots=True)
class AnswerText:
    """An answer, the conversation before it, and the expected answer, as text."""

    conversation: str
    expected: str
    answer: str


class UnusableData(Exception):
    """A line cannot be evaluated; the message names it. It has one argument, so that it can be pickled."""


def read_turns(raw: bytes, first_line: int, rendering: Rendering) -> HeldOutTurns:
    """The turns of the chats in ``raw``, JSON lines of which the first has the number ``first_line``.

    Raises:
        UnusableData: a line is no chat, or the base's template does not take it.
    """
    renderer = _renderer(rendering)
    turns = tuple(HeldOutTurn(turn.prompt, turn.target) for turn in _turns(raw, first_line, renderer))
    try:
        return HeldOutTurns(turns, renderer.end_id)
    except TemplateError as error:
        raise UnusableData(str(error)) from error


def compare_answers(
    raw: bytes, first_line: int, rendering: Rendering, answers: Sequence[Sequence[int]]
) -> list[AnswerFacts]:
    """The facts of ``answers``, token ids, to the first turns of ``raw``. Raises: UnusableData."""
    renderer = _renderer(rendering)
    turns = _turns(raw, first_line, renderer)
    return [facts_of(renderer, turn, answer) for turn, answer in zip(turns, answers, strict=False)]


def answer_texts(
    raw: bytes, first_line: int, rendering: Rendering, answers: Sequence[Sequence[int]]
) -> list[AnswerText]:
    """``answers``, token ids, to the first turns of ``raw`` as text. Raises: UnusableData."""
    renderer = _renderer(rendering)
    turns = _turns(raw, first_line, renderer)
    return [
        AnswerText(conversation_text(turn), answer_text(renderer, turn.target), answer_text(renderer, answer))
        for turn, answer in zip(turns, answers, strict=False)
    ]


def template_kwargs_of(training: Mapping[str, Any]) -> dict[str, Any]:
    """The template's arguments with which an adapter was trained, of its ``training.json``: only plain values."""
    chosen = training.get("hyperparameters")
    kwargs = chosen.get("template_kwargs") if isinstance(chosen, Mapping) else None
    plain = kwargs if isinstance(kwargs, Mapping) else {}
    return {str(name): value for name, value in plain.items() if isinstance(value, bool | int | float | str)}


def _turns(raw: bytes, first_line: int, renderer: Renderer) -> Iterator[Turn]:
    """The turns that are trained on: those whose ``weight`` is not 0."""
    for conversation in _conversations(raw, first_line):
        try:
            turns = list(renderer.turns(conversation))
        except TemplateError as error:
            raise UnusableData(str(error)) from error
        yield from (turn for turn in turns if turn.sample().trained_tokens)


def _conversations(raw: bytes, first_line: int) -> Iterator[Conversation]:
    for number, line in enumerate(raw.split(b"\n"), first_line):
        if not line.strip():
            continue
        conversation = parse_conversation(line, number)
        if isinstance(conversation, DataError):
            raise UnusableData(str(conversation)) from conversation
        yield conversation


def _renderer(rendering: Rendering) -> Renderer:
    tokenizer = tokenizer_of(rendering.base)
    # NOTE: they come from a file that a tenant brings: none may stand for an argument of the tokenizer itself.
    own = signature(tokenizer.apply_chat_template).parameters
    kwargs = {name: value for name, value in rendering.template_kwargs.items() if name not in own}
    served = {"chat_template": rendering.chat_template} if rendering.chat_template else {}
    return Renderer(tokenizer, rendering.end_token, kwargs | served)


@lru_cache(maxsize=1)
def tokenizer_of(base: Path) -> Any:
    """The base's tokenizer; a worker has one base."""
    from transformers import AutoTokenizer  # slow to import: only the workers need it

    return AutoTokenizer.from_pretrained(base, local_files_only=True)

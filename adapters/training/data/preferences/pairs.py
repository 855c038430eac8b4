"""Pairs of token ids: the same prompt with a better and a worse answer.

Rows that have one side only are paired with the rows of the same prompt that have the other. A better answer that
stays alone becomes an ``open`` turn: before the first step the model that the training starts from answers it, and a
different answer is the worse one. A worse answer that stays alone is left out, because nothing says what is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import IGNORED, Conversation, Renderer, Sample, Turn
from adapters.training.data.preferences.rows import PreferenceRow, answer_of, prompt_of, read_preference_rows
from adapters.training.data.reader import check_usable, first_question, share_of
from adapters.training.errors import DataError, TemplateError


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Token ids of a prompt and of two answers, each through its end token."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    def samples(self) -> tuple[Sample, Sample]:
        """The better and the worse answer, each with its prompt; only answers count."""
        return _sample(self.prompt, self.chosen), _sample(self.prompt, self.rejected)


@dataclass(slots=True)
class Preferences:
    """Pairs to train on and to evaluate on, turns that still lack a worse answer, and what was left out."""

    pairs: list[PreferencePair] = field(default_factory=list)
    held_out: list[PreferencePair] = field(default_factory=list)
    open: list[Turn] = field(default_factory=list)
    rows: int = 0
    generated: int = 0  # pairs whose worse answer the starting model gave
    already_preferred: int = 0  # open turns that it answers as wanted
    only_worse: int = 0
    dropped: int = 0  # longer than max_length_tokens

    def counts(self) -> dict[str, int]:
        """The figures for ``training.json``."""
        return {
            "pairs": len(self.pairs),
            "held_out_pairs": len(self.held_out),
            "generated_pairs": self.generated,
            "already_preferred": self.already_preferred,
            "only_worse": self.only_worse,
            "dropped_pairs": self.dropped,
        }

    def add_answers(self, answers: Sequence[Sequence[int]]) -> None:
        """Make pairs of the open turns and the starting model's ``answers`` to them."""
        for turn, answer in zip(self.open, answers, strict=True):
            if tuple(answer) == turn.target or not answer:
                self.already_preferred += 1
            else:
                self.generated += 1
                self.pairs.append(PreferencePair(turn.prompt, turn.target, tuple(answer)))
        self.open = []

    def summary(self) -> list[str]:
        """Sentences for the person who starts the training."""
        found = [f"{len(self.pairs)} pairs of answers, {len(self.held_out)} held out"]
        if self.open:
            found.append(
                f"{len(self.open)} better answers have no worse one: the model that the training starts from answers "
                "their prompts first"
            )
        if self.only_worse:
            found.append(
                f"{self.only_worse} worse answers have no better one and are left out. Add rows with better answers "
                "to the same prompts."
            )
        if self.dropped:
            found.append(f"{self.dropped} pairs are left out: they are longer than --max-length-tokens.")
        return found


@dataclass(frozen=True, slots=True)
class EncodedPreferences:
    """The preferences, and the better answers of the held-out rows as chats."""

    preferences: Preferences
    held_out_chats: list[Conversation]


def read_preferences(config: TrainingConfig, renderer: Renderer, unusable: list[str]) -> EncodedPreferences:
    """Read, pair, split and encode ``config.preferences``.

    Raises:
        DataError: a line cannot be used, or nothing is left to train on.
        TemplateError: the base's template refuses a chat.
    """
    if config.preferences is None:
        raise ValueError("There is no file of preferences.")
    rows = read_preference_rows(config.preferences)
    errors = [row for row in rows if isinstance(row, DataError)]
    if not config.skip_unusable or len(errors) == len(rows):
        check_usable(config.preferences, errors)
    unusable += [f"{config.preferences.name}: {error}" for error in errors]
    matched = match_rows([row for row in rows if isinstance(row, PreferenceRow)])
    found = Preferences(rows=len(rows) - len(errors))
    held_out_chats: list[Conversation] = []
    for row in matched:
        try:
            _add(row, found, held_out_chats, renderer, config)
        except TemplateError as error:
            if not config.skip_unusable:
                raise
            unusable.append(str(error))
    if not found.pairs and not found.open:
        raise DataError(
            f"{config.preferences.name}: no pair is left to train on ({found.only_worse} worse answers without a "
            f"better one, {found.dropped} pairs longer than max_length_tokens {config.max_length_tokens}, "
            f"{len(found.held_out)} held out). Add rows with better answers."
        )
    return EncodedPreferences(found, held_out_chats)


def match_rows(rows: Iterable[PreferenceRow]) -> list[PreferenceRow]:
    """``rows``, in which rows of one side are joined with rows of the other side and the same prompt.

    Of a prompt with several of both sides, each answer is in at least one pair; the order is that of the file.
    """
    whole: list[PreferenceRow] = []
    sides: dict[str, tuple[dict[str, Conversation], dict[str, Conversation]]] = {}
    for row in rows:
        if row.chosen and row.rejected:
            whole.append(row)
            continue
        for side, chat in enumerate((row.chosen, row.rejected)):
            if chat is not None:
                both = sides.setdefault(prompt_of(chat), ({}, {}))
                both[side].setdefault(answer_of(chat), chat)
    for better, worse in sides.values():
        whole += _joined(list(better.values()), [c for a, c in worse.items() if a not in better])
    return sorted(whole, key=lambda row: row.line)


def _joined(better: Sequence[Conversation], worse: Sequence[Conversation]) -> list[PreferenceRow]:
    if not better or not worse:
        alone = [PreferenceRow(chat, None, chat.line, "chats") for chat in better]
        return alone + [PreferenceRow(None, chat, chat.line, "chats") for chat in worse]
    count = max(len(better), len(worse))
    pairs = islice(zip(cycle(better), cycle(worse), strict=False), count)
    return [PreferenceRow(one, other, one.line, "chats") for one, other in pairs]


def _add(
    row: PreferenceRow,
    found: Preferences,
    chats: list[Conversation],
    renderer: Renderer,
    config: TrainingConfig,
) -> None:
    """Add ``row`` to what it belongs to: pairs, held-out pairs, open turns, or what is left out."""
    if row.chosen is None:
        found.only_worse += 1
        return
    held_out = share_of(first_question(row.chosen)) < config.held_out_share
    better = last_turn(row.chosen, renderer)
    worse = last_turn(row.rejected, renderer) if row.rejected else None
    longest = max(len(turn.prompt) + len(turn.target) for turn in (better, worse) if turn)
    if longest > config.max_length_tokens:
        found.dropped += 1
        return
    if held_out:
        chats.append(last_only(row.chosen))
    if worse is not None:
        pair = PreferencePair(better.prompt, better.target, worse.target)
        (found.held_out if held_out else found.pairs).append(pair)
    elif not held_out:
        found.open.append(better)


def last_turn(chat: Conversation, renderer: Renderer) -> Turn:
    """The last assistant turn of ``chat``, rendered.

    Raises:
        TemplateError: the template refuses the chat.
    """
    return list(renderer.turns(chat))[-1]


def last_only(chat: Conversation) -> Conversation:
    """``chat``, of which only the last assistant turn is trained or evaluated."""
    messages = [m | {"weight": 0} if m["role"] == "assistant" else m for m in map(dict, chat.messages[:-1])]
    last = {name: value for name, value in chat.messages[-1].items() if name != "weight"}
    return Conversation((*messages, last), chat.tools, chat.line, chat.form, chat.notes)


def _sample(prompt: tuple[int, ...], answer: tuple[int, ...]) -> Sample:
    return Sample(prompt + answer, (IGNORED,) * len(prompt) + answer)

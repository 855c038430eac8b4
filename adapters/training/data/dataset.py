"""From files to samples: what is trained on, what is measured on, and what was noticed on the way."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from transformers import AutoTokenizer

from adapters.training.check.validators import FEW_CHATS, calls_survive, size_advice
from adapters.training.config import TrainingConfig
from adapters.training.data.augment import augment
from adapters.training.data.chat_template import Conversation, Renderer, Sample, fold
from adapters.training.data.reader import (
    count_control_tokens,
    first_question,
    read_conversations,
    split_held_out,
)
from adapters.training.errors import BaseModelError, DataError


@dataclass(frozen=True, slots=True)
class Prepared:
    """The data, ready to train on."""

    samples: list[Sample]
    held_out: list[Conversation]
    chats: int
    dropped_turns: int  # longer than max_length_tokens
    control_token_messages: int  # whose text holds a control token
    replayed_samples: int = 0  # of `samples`, from the general chats
    replay_available: int = 0  # general samples there were to draw from
    rephrased_chats: int = 0
    unread_call_turns: int = 0  # the template writes their calls otherwise than the hermes parser reads them

    @property
    def tokens(self) -> int:
        """Tokens of one epoch."""
        return sum(len(s.ids) for s in self.samples)

    @property
    def trained_tokens(self) -> int:
        """Trained tokens of one epoch."""
        return sum(s.trained_tokens for s in self.samples)

    def counts(self) -> dict[str, int]:
        """The figures for ``training.json``."""
        return {
            "chats": self.chats,
            "samples": len(self.samples),
            "tokens_per_epoch": self.tokens,
            "trained_tokens_per_epoch": self.trained_tokens,
            "held_out_chats": len(self.held_out),
            "dropped_turns": self.dropped_turns,
            "control_token_messages": self.control_token_messages,
            "replayed_samples": self.replayed_samples,
            "rephrased_chats": self.rephrased_chats,
            "unread_call_turns": self.unread_call_turns,
        }

    def warnings(self, config: TrainingConfig) -> list[str]:
        """Sentences for the person who started the training."""
        found = []
        if self.chats < FEW_CHATS:
            found.append(size_advice(self.chats))
        if self.replayed_samples > self.replay_available:
            found.append(
                f"{self.replay_available} general samples repeat to make {self.replayed_samples}; "
                "give --replay more of them, or lower --replay-ratio."
            )
        if self.dropped_turns:
            found.append(
                f"{self.dropped_turns} turns left out: longer than {config.max_length_tokens} tokens."
            )
        if self.unread_call_turns:
            found.append(
                f"{self.unread_call_turns} turns call functions in a form that the hermes parser does not read; "
                "serve this base with its own --tool-call-parser."
            )
        if self.control_token_messages:
            found.append(
                f"{self.control_token_messages} messages hold a control token in their text; "
                "the server reads those as the end of a turn."
            )
        return found


def load_renderer(config: TrainingConfig) -> Renderer:
    """The base's own tokenizer and chat template.

    Raises:
        BaseModelError: the folder has no tokenizer or no chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.base, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{config.base.name} holds no tokenizer that can be read.") from error
    if not tokenizer.chat_template:
        raise BaseModelError(f"{config.base.name} lacks a chat template; give the very base that is served.")
    return Renderer(tokenizer, config.end_token, config.template_kwargs)


def prepare(config: TrainingConfig, renderer: Renderer) -> Prepared:
    """Read, split, rephrase, mix and encode the data.

    Raises:
        DataError: a line cannot be used, or nothing is left to train on.
        TemplateError: the base's template cannot be trained on exactly.
    """
    chats, held_out = train_and_held_out(config)
    asked = augment(chats, config.seed) if config.augment else chats
    samples, dropped, unread = _encoded(asked, renderer, config.max_length_tokens)
    if not samples:
        raise DataError(
            f"{config.data.name}: no turn is left to train on; {dropped} were longer than max_length_tokens "
            f"{config.max_length_tokens}. Raise it, or shorten the chats."
        )
    replayed, available = _replayed(config, renderer, held_out, len(samples))
    return Prepared(
        samples=samples + replayed,
        held_out=held_out,
        chats=len(chats),
        dropped_turns=dropped,
        control_token_messages=count_control_tokens(
            [*chats, *held_out], renderer.tokenizer.all_special_tokens
        ),
        replayed_samples=len(replayed),
        replay_available=available,
        unread_call_turns=unread,
        rephrased_chats=sum(new is not old for new, old in zip(asked, chats, strict=True)),
    )


def train_and_held_out(config: TrainingConfig) -> tuple[list[Conversation], list[Conversation]]:
    """The chats to train on and those to measure on.

    Raises:
        DataError: a line cannot be used.
    """
    chats = read_conversations(config.data)
    if config.held_out is not None:
        return chats, read_conversations(config.held_out)
    return split_held_out(chats, config.held_out_share)


def _encoded(
    chats: Sequence[Conversation], renderer: Renderer, max_length_tokens: int
) -> tuple[list[Sample], int, int]:
    """Samples, turns left out as too long, and turns whose calls the server would not read back."""
    samples: list[Sample] = []
    dropped = unread = 0
    for chat in chats:
        turns = list(renderer.turns(chat))
        folded, left_out = fold(turns, max_length_tokens)
        samples += folded
        dropped += left_out
        unread += sum(bool(t.answer.get("tool_calls")) and not calls_survive(t, renderer) for t in turns)
    return samples, dropped, unread


def _replayed(
    config: TrainingConfig, renderer: Renderer, held_out: Sequence[Conversation], own: int
) -> tuple[list[Sample], int]:
    """General samples, so many that they are ``replay_ratio`` of the mix, and how many there are to draw from.

    A general chat that asks what a held-out one asks is left out. Where there are too few they repeat.
    """
    wanted = round(own * config.replay_ratio / (1 - config.replay_ratio))
    if config.replay is None or not wanted:
        return [], 0
    measured_on = {first_question(chat) for chat in held_out}
    chats = [c for c in read_conversations(config.replay) if first_question(c) not in measured_on]
    samples, _, _ = _encoded(chats, renderer, config.max_length_tokens)
    if not samples:
        raise DataError(f"{config.replay.name}: no turn to replay is left. Raise --max-length-tokens.")
    random.Random(config.seed).shuffle(samples)
    return list(islice(cycle(samples), wanted)), len(samples)

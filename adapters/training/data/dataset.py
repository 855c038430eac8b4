"""From files to samples: the training samples, the held-out chats, and warnings about the data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from transformers import AutoTokenizer

from adapters.training.config import TrainingConfig
from adapters.training.data.augment import augment
from adapters.training.data.chat_template import Conversation, Renderer, Sample, fold
from adapters.training.data.quality import FEW_CHATS, calls_survive, count_control_tokens, size_advice
from adapters.training.data.reader import first_question, read_conversations, split_held_out
from adapters.training.errors import BaseModelError, DataError


@dataclass(frozen=True, slots=True)
class PreparedData:
    """The data, ready to train on."""

    samples: list[Sample]
    held_out: list[Conversation]
    chats: int
    dropped_turns: int  # longer than max_length_tokens
    control_token_messages: int  # messages with a control token in their text
    replayed_samples: int = 0  # of `samples`, from the general chats
    replay_available: int = 0  # different general samples to choose from
    rephrased_chats: int = 0
    unread_call_turns: int = 0  # the hermes parser does not read their calls back

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
        """Sentences for the person who starts the training."""
        found = []
        if self.chats < FEW_CHATS:
            found.append(size_advice(self.chats))
        if self.replayed_samples > self.replay_available:
            found.append(
                f"{self.replay_available} general samples are repeated to make {self.replayed_samples}; "
                "give --replay a file with more chats, or lower --replay-ratio."
            )
        if self.dropped_turns:
            found.append(
                f"{self.dropped_turns} turns are left out: they are longer than --max-length-tokens "
                f"{config.max_length_tokens}."
            )
        if self.unread_call_turns:
            found.append(
                f"{self.unread_call_turns} turns call functions in a form that the hermes parser does not read; "
                "serve this base with its own --tool-call-parser."
            )
        if self.control_token_messages:
            found.append(
                f"{self.control_token_messages} messages have a control token in their text; "
                "the server reads it as the end of a turn."
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
        raise BaseModelError(
            f"{config.base.name} has no readable tokenizer. Give the folder of the model that the server serves."
        ) from error
    if not tokenizer.chat_template:
        raise BaseModelError(
            f"{config.base.name} lacks a chat template. Give the folder of the model that the server serves."
        )
    return Renderer(tokenizer, config.end_token, config.template_kwargs)


def prepare(config: TrainingConfig, renderer: Renderer) -> PreparedData:
    """Read, split, rephrase, mix and encode the data.

    Raises:
        DataError: a line cannot be used, or nothing is left to train on.
        TemplateError: the base's template does not allow an exact mask.
    """
    chats, held_out = train_and_held_out(config)
    rephrased = augment(chats, config.seed) if config.augment else chats
    samples, dropped, unread = _encode(rephrased, renderer, config.max_length_tokens)
    if not samples:
        raise DataError(
            f"{config.data.name}: no turn is left to train on; {dropped} turns are longer than max_length_tokens "
            f"{config.max_length_tokens}. Raise the limit, or shorten the chats."
        )
    replayed, available = _select_replay(config, renderer, held_out, len(samples))
    return PreparedData(
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
        rephrased_chats=sum(new is not old for new, old in zip(rephrased, chats, strict=True)),
    )


def train_and_held_out(config: TrainingConfig) -> tuple[list[Conversation], list[Conversation]]:
    """The chats to train on and the held-out chats.

    Raises:
        DataError: a line cannot be used.
    """
    chats = read_conversations(config.data)
    if config.held_out is not None:
        return chats, read_conversations(config.held_out)
    return split_held_out(chats, config.held_out_share)


def _encode(
    chats: Sequence[Conversation], renderer: Renderer, max_length_tokens: int
) -> tuple[list[Sample], int, int]:
    """Samples, the number of too long turns, and the number of turns whose calls the server does not read back."""
    samples: list[Sample] = []
    dropped = unread = 0
    for chat in chats:
        turns = list(renderer.turns(chat))
        folded, left_out = fold(turns, max_length_tokens)
        samples += folded
        dropped += left_out
        unread += sum(bool(t.answer.get("tool_calls")) and not calls_survive(t, renderer) for t in turns)
    return samples, dropped, unread


def _select_replay(
    config: TrainingConfig, renderer: Renderer, held_out: Sequence[Conversation], own: int
) -> tuple[list[Sample], int]:
    """General samples that make up ``replay_ratio`` of the mix, and the number of different ones.

    A general chat with the first question of a held-out chat is left out. If there are too few, they are repeated.
    """
    wanted = round(own * config.replay_ratio / (1 - config.replay_ratio))
    if config.replay is None or not wanted:
        return [], 0
    held_out_questions = {first_question(chat) for chat in held_out}
    chats = [c for c in read_conversations(config.replay) if first_question(c) not in held_out_questions]
    samples, _, _ = _encode(chats, renderer, config.max_length_tokens)
    if not samples:
        raise DataError(
            f"{config.replay.name}: no turn to replay is left within --max-length-tokens {config.max_length_tokens}. "
            "Raise the limit."
        )
    random.Random(config.seed).shuffle(samples)
    return list(islice(cycle(samples), wanted)), len(samples)

"""The data of a training, ready to train on, with its counts and the warnings about it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Conversation, Sample, shared_lengths
from adapters.training.data.mixing import FileShare
from adapters.training.data.preferences.pairs import Preferences
from adapters.training.data.quality import FEW_CHATS, dataset_size_advice

#: Steps of which the shared beginnings are counted, and from which share on they are told.
_DRAWN_STEPS, _MUCH_SHARED = 20, 0.5


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
    unusable: Sequence[str] = ()  # lines left out by --skip-unusable, and why
    files: Sequence[FileShare] = ()
    preferences: Preferences | None = None  # with --preferences; `samples` are then both sides of its pairs

    @property
    def tokens(self) -> int:
        """Tokens of one epoch."""
        return sum(len(s.ids) for s in self.samples)

    @property
    def trained_tokens(self) -> int:
        """Trained tokens of one epoch."""
        return sum(s.trained_tokens for s in self.samples)

    def counts(self) -> dict[str, Any]:
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
            "unusable_lines": len(self.unusable),
            **({"files": [file.as_dict() for file in self.files]} if len(self.files) > 1 else {}),
            **(self.preferences.counts() if self.preferences else {}),
        }

    def warnings(self, config: TrainingConfig) -> list[str]:
        """Sentences for the person who starts the training."""
        found = []
        if self.chats < FEW_CHATS:
            found.append(dataset_size_advice(self.chats))
        if self.replayed_samples > self.replay_available:
            found.append(
                f"{self.replay_available} general samples are repeated to make {self.replayed_samples}; "
                "give --replay a file with more chats, or lower --replay-ratio."
            )
        if share := self._shared_share(config):
            found.append(
                f"{share:.0%} of the tokens are beginnings that samples of a step share, such as the same functions; "
                f"--packing prefix --micro-batch-samples {config.batch_samples} computes them once."
            )
        if self.unusable:
            found.append(
                f"{len(self.unusable)} lines cannot be used and are left out (--skip-unusable); the first: "
                f"{self.unusable[0]}"
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
                f"{self.control_token_messages} messages have a control token in their text; it is trained and "
                "served as text. Remove it if the messages were rendered with a chat template."
            )
        return found

    def _shared_share(self, config: TrainingConfig) -> float:
        """The share of a step's tokens that --packing prefix would save; 0 if that is little, or not possible."""
        possible = config.packing == "off" and config.attention == "sdpa" and not config.preferences
        if not possible or config.batch_samples == 1:
            return 0.0
        draw, shared, tokens = random.Random(0), 0, 0
        for _ in range(_DRAWN_STEPS):
            step = draw.sample(self.samples, min(config.batch_samples, len(self.samples)))
            shared += sum(shared_lengths(sorted(step, key=lambda s: s.ids)))
            tokens += sum(len(s.ids) for s in step)
        return shared / tokens if shared > _MUCH_SHARED * tokens else 0.0

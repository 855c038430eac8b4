"""From files to samples: what is trained on, what is measured on, and what was noticed on the way."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import AutoTokenizer

from adapters.training.config import TrainingConfig
from adapters.training.conversation import Conversation, Renderer, Sample, fold
from adapters.training.data import count_control_tokens, read_conversations, split_held_out
from adapters.training.errors import BaseModelError, DataError


@dataclass(frozen=True, slots=True)
class Prepared:
    """The data, ready to train on."""

    samples: list[Sample]
    held_out: list[Conversation]
    chats: int
    dropped_turns: int  # longer than max_length_tokens
    control_token_messages: int  # whose text holds a control token

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
        }

    def warnings(self, config: TrainingConfig) -> list[str]:
        """Sentences for the person who started the training."""
        found = []
        if self.dropped_turns:
            found.append(
                f"{self.dropped_turns} turns left out: longer than {config.max_length_tokens} tokens."
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
    """Read, split and encode the data.

    Raises:
        DataError: a line cannot be used, or nothing is left to train on.
        TemplateError: the base's template cannot be trained on exactly.
    """
    chats = read_conversations(config.data)
    if config.held_out is not None:
        held_out = read_conversations(config.held_out)
    else:
        chats, held_out = split_held_out(chats, config.held_out_share)
    samples: list[Sample] = []
    dropped = 0
    for chat in chats:
        folded, left_out = fold(list(renderer.turns(chat)), config.max_length_tokens)
        samples += folded
        dropped += left_out
    if not samples:
        raise DataError(
            f"{config.data.name}: no turn is left to train on; {dropped} were longer than max_length_tokens "
            f"{config.max_length_tokens}. Raise it, or shorten the chats."
        )
    control = count_control_tokens([*chats, *held_out], renderer.tokenizer.all_special_tokens)
    return Prepared(samples, held_out, len(chats), dropped, control)

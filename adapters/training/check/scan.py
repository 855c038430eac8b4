"""Reads the files once, in the same way as a training, and collects what the validators look at."""

from __future__ import annotations

from dataclasses import dataclass, field

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Conversation, Renderer, Sample, Turn, fold
from adapters.training.data.reader import read_lines, split_held_out
from adapters.training.errors import DataError, TemplateError


@dataclass(slots=True)
class DatasetScan:
    """What one pass over the training file collects."""

    chats: list[Conversation] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    turns: list[tuple[Conversation, Turn]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    template_errors: list[str] = field(default_factory=list)
    long_turns: int = 0
    lost_chats: int = 0


def scan_dataset(config: TrainingConfig, renderer: Renderer) -> DatasetScan:
    """Read ``config.data``; lines that cannot be used are collected, not raised.

    Raises:
        DataError: the file is missing, empty or not UTF-8.
        TemplateError: the end token is not a single token of the base.
    """
    scan = DatasetScan()
    for chat in read_lines(config.data):
        if isinstance(chat, DataError):
            scan.broken.append(str(chat))
            continue
        scan.chats.append(chat)
        try:
            turns = list(renderer.turns(chat))
        except TemplateError as error:
            _ = renderer.end_id  # raises if the end token itself is wrong, which no line can help
            scan.template_errors.append(str(error))
            continue
        samples, dropped = fold(turns, config.max_length_tokens)
        scan.turns += [(chat, turn) for turn in turns]
        scan.samples += samples
        scan.long_turns += dropped
        scan.lost_chats += not samples
    return scan


def split_chats(
    config: TrainingConfig, chats: list[Conversation]
) -> tuple[list[Conversation], list[Conversation], int]:
    """The training chats, the held-out chats, and the number of broken held-out lines."""
    if config.held_out is None:
        return *split_held_out(chats, config.held_out_share), 0
    lines = read_lines(config.held_out)
    good = [line for line in lines if not isinstance(line, DataError)]
    return chats, good, len(lines) - len(good)

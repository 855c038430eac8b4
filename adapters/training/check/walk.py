"""One walk over the files, as a training would take it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import IGNORED, Conversation, Renderer, Sample, Turn, fold
from adapters.training.data.reader import read_rows, split_held_out
from adapters.training.errors import DataError, TemplateError


@dataclass(slots=True)
class Found:
    """What one walk over the file collects."""

    chats: list[Conversation] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    turns: list[tuple[Conversation, Turn]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)  # turns the template cannot be trained on
    long_turns: int = 0
    lost_chats: int = 0


def walk(config: TrainingConfig, renderer: Renderer) -> Found:
    found = Found()
    for row in read_rows(config.data):
        if isinstance(row, DataError):
            found.broken.append(str(row))
            continue
        found.chats.append(row)
        try:
            turns = list(renderer.turns(row))
        except TemplateError as error:
            _ = renderer.end_id  # an end token that is none is no matter of this line: it raises
            found.untold.append(str(error))
            continue
        samples, dropped = fold(turns, config.max_length_tokens)
        found.turns += [(row, turn) for turn in turns]
        found.samples += samples
        found.long_turns += dropped
        found.lost_chats += not samples
    return found


def sides(
    config: TrainingConfig, chats: list[Conversation]
) -> tuple[list[Conversation], list[Conversation], int]:
    """Chats to train on, chats to measure on, and broken lines among the latter."""
    if config.held_out is None:
        return *split_held_out(chats, config.held_out_share), 0
    rows = read_rows(config.held_out)
    good = [row for row in rows if not isinstance(row, DataError)]
    return chats, good, len(rows) - len(good)


def text_of(chat: Conversation) -> str:
    return "\n".join(
        f"{m['role']}: {m['content']}{json.dumps(m['tool_calls']) if m.get('tool_calls') else ''}"
        for m in chat.messages
    )


def asked(chat: Conversation) -> str:
    """Everything the user says, case and spaces aside."""
    said = " ".join(str(m["content"]) for m in chat.messages if m["role"] == "user")
    return " ".join(said.lower().split())


def spans(sample: Sample) -> list[tuple[int, ...]]:
    """The trained stretches of a sample."""
    spans: list[list[int]] = []
    before = IGNORED
    for label in sample.labels:
        if label != IGNORED:
            if before == IGNORED:
                spans.append([])
            spans[-1].append(label)
        before = label
    return [tuple(span) for span in spans]

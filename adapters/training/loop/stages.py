"""Two stages for one adapter: first chats, then for example function calls, at a lower learning rate.

The second stage continues the adapter of the first one, replays a share of its chats, and is also evaluated on the
chats that the first one held out. After a kill, the same command resumes in the stage that was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Conversation
from adapters.training.data.dataset import read_usable, train_and_held_out

_FIRST = Path("checkpoints", "stage-1")  # deleted with the checkpoints at the end


def first_stage(config: TrainingConfig) -> TrainingConfig:
    """The configuration of the first stage."""
    return replace(config, then=None, out=config.out / _FIRST)


def second_stage(config: TrainingConfig) -> TrainingConfig:
    """The configuration of the second stage. Writes the chats of the finished first one beside its adapter.

    Raises:
        DataError: the chats of the first stage, or the general ones, cannot be read.
    """
    if config.then is None:
        raise ValueError("There is no second stage: `then` is not set.")
    first = config.out / _FIRST
    chats, held_out = train_and_held_out(replace(config, then=None))
    more = read_usable(config.replay, config, []) if config.replay else []
    replayed = _write(first / "chats.jsonl", [*chats, *more])
    general = config.general
    if general is None and held_out and config.held_out is None:
        general = _write(first / "held-out.jsonl", held_out)
    return replace(
        config,
        data=(config.then,),
        data_weights=(),
        then=None,
        start_from=first,
        learning_rate=config.learning_rate * config.then_rate,
        replay=replayed,
        general=general,
    )


def _write(path: Path, chats: Sequence[Conversation]) -> Path:
    rows = [{"messages": list(c.messages), "tools": list(c.tools)} for c in chats]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path

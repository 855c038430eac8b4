"""Reads the files once, in the same way as a training, in several processes if they are large."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from adapters.training.check.facts import ChatFacts, facts_of
from adapters.training.config import TrainingConfig
from adapters.training.data.chat_template import Conversation, Renderer, Sample, fold
from adapters.training.data.files import RawRow, raw_rows
from adapters.training.data.reader import parse_conversation
from adapters.training.errors import DataError

_BATCH_ROWS = 250
_PARALLEL_ROWS = 2000  # below, starting processes costs more than it saves
_AHEAD = 4  # batches that wait for each process

Batch = list[tuple[int, RawRow]]
Results = list[ChatFacts | str]


@dataclass(slots=True)
class DatasetScan:
    """What one pass over files collects."""

    chats: list[ChatFacts] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """Rows read, usable or not."""
        return len(self.chats) + len(self.broken)


def scan_files(
    paths: tuple[Path, ...],
    config: TrainingConfig,
    renderer: Renderer,
    progress: Callable[[int], None] = lambda rows: None,
) -> DatasetScan:
    """Read ``paths``; lines that cannot be used are collected, not raised. ``progress`` gets the rows read so far.

    Raises:
        DataError: a file is missing, empty, of another kind, or damaged.
        TemplateError: the end token is not a single token of the base.
    """
    scan, started = DatasetScan(), time.perf_counter()
    for number, path in enumerate(paths):
        look = _Look(number, renderer, config.max_length_tokens)
        before = scan.rows
        for results in _run(look, _batches(raw_rows(path))):
            for result in results:
                if isinstance(result, str):
                    scan.broken.append(f"{path.name}: {result}" if len(paths) > 1 else result)
                else:
                    scan.chats.append(result)
            progress(scan.rows)
        if scan.rows == before:
            raise DataError(f"{path.name} has no chats. Give a JSONL file with one chat per line.")
    scan.seconds = time.perf_counter() - started
    return scan


def example_samples(scan: DatasetScan, config: TrainingConfig, renderer: Renderer) -> list[Sample]:
    """Three samples, read again: a short one, one of medium length, a long one."""
    by_length = sorted((f.sample_tokens[0], f.file, f.line) for f in scan.chats if f.sample_tokens)
    if len(by_length) > 3:
        by_length = [by_length[int(len(by_length) * share)] for share in (0.1, 0.5, 0.9)]
    found = []
    for _, file, line in by_length:
        raw = next(raw for number, raw in raw_rows(config.data[file]) if number == line)
        chat = parse_conversation(raw, line)
        if isinstance(chat, Conversation):
            found += fold(list(renderer.turns(chat)), config.max_length_tokens)[0][:1]
    return found


class _Look:
    """Turns batches of rows into facts."""

    def __init__(self, file: int, renderer: Renderer, max_length_tokens: int) -> None:
        self._file = file
        self._renderer = renderer
        self._max_length_tokens = max_length_tokens

    def __call__(self, batch: Batch) -> Results:
        return [self._one(line, raw) for line, raw in batch]

    def _one(self, line: int, raw: RawRow) -> ChatFacts | str:
        chat = parse_conversation(raw, line)
        if isinstance(chat, DataError):
            return str(chat)
        return facts_of(chat, self._file, self._renderer, self._max_length_tokens)


def _batches(rows: Iterable[tuple[int, RawRow]]) -> Iterator[Batch]:
    iterator = iter(rows)
    while batch := list(islice(iterator, _BATCH_ROWS)):
        yield batch


def _run(look: _Look, batches: Iterator[Batch]) -> Iterator[Results]:
    first = list(islice(batches, _PARALLEL_ROWS // _BATCH_ROWS))
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield from map(look, first)
    if processes == 1 or len(first) < _PARALLEL_ROWS // _BATCH_ROWS:
        yield from map(look, batches)
        return
    # NOTE: spawned, not forked: the tokenizer's and numpy's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_keep, initargs=(look,)) as pool:
        waiting: list[Any] = []
        for batch in batches:
            waiting.append(pool.submit(_look_at, batch))
            if len(waiting) >= _AHEAD * processes:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


_kept: list[_Look] = []


def _keep(look: _Look) -> None:
    """Keep what a worker process needs for all its batches; one process tokenizes with one thread."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _kept.append(look)


def _look_at(batch: Batch) -> Results:
    return _kept[0](batch)

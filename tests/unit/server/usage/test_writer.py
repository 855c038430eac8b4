"""Usage reaches the database exactly once: outages, lost confirmations, crashes, full disks."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from adapters.errors import RegistryUnavailable
from adapters.models import BatchId, Usage
from server.usage import writer as writer_module
from server.usage.spool import Batch, UsageSpool
from server.usage.writer import UsageWriter

NOON = datetime(2026, 3, 17, 12, tzinfo=UTC)
MODES = ("answers", "refuses", "commits and fails", "hangs")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    be_patient(monkeypatch, 60)  # on a busy machine a thread may take long, and no call returns before it


def be_patient(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """How long a call waits for the database."""
    monkeypatch.setattr(writer_module, "PATIENCE_S", seconds)
    monkeypatch.setattr(writer_module, "RECOVERY_PATIENCE_S", seconds)


class Table:
    """The table of the registry, which knows each writer's last batch."""

    def __init__(self) -> None:
        self.mode = "answers"
        self.last: dict[str, int] = {}
        self.tokens: Counter[str] = Counter()
        self.transactions = 0

    async def add(self, batch: Iterable[Usage], batch_id: BatchId | None = None) -> bool:
        assert batch_id is not None
        if self.mode == "refuses":
            raise RegistryUnavailable
        if self.mode == "hangs":
            await asyncio.sleep(3600)
        added = self.last.get(batch_id.writer, 0) < batch_id.sequence
        if added:
            self.transactions += 1
            self.last[batch_id.writer] = batch_id.sequence
            for row in batch:
                self.tokens[row.tenant] += row.generated_tokens
        if self.mode == "commits and fails":
            raise OperationalError("commit", {}, Exception("connection lost"))
        return added


def used(tokens: int, tenant: str = "acme", hour: datetime = NOON) -> Usage:
    return Usage(tenant, "support", 1, hour, requests=1, generated_tokens=tokens)


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir()) if folder.exists() else []


async def crash(writer: UsageWriter) -> None:
    """What `kill -9` leaves: the lock is gone, the files stay."""
    if writer._sending is not None:
        writer._sending.cancel()
        await asyncio.wait({writer._sending})
    writer._disk.shutdown()
    if writer._spool._lock is not None:
        writer._spool._lock.close()


async def test_a_database_that_answers_needs_no_disk(tmp_path: Path) -> None:
    table = Table()
    writer = UsageWriter(table, UsageSpool(tmp_path / "usage"))
    await writer.recover()
    for tokens in (3, 4):
        await writer.add([used(tokens), used(tokens, "globex")])
    assert table.tokens == {"acme": 7, "globex": 7} and table.transactions == 2
    assert not (tmp_path / "usage").exists() and writer.waiting_rows == 0
    await writer.aclose()


async def test_an_outage_is_one_row_for_each_hour_and_written_once(tmp_path: Path) -> None:
    table = Table()
    writer = UsageWriter(table, UsageSpool(tmp_path))
    table.mode = "refuses"
    for minute in range(120):
        await writer.add([used(1, hour=NOON + timedelta(minutes=minute))])
    assert writer.waiting_rows == 3, "the batch that was refused, and two hours"
    assert files(tmp_path) == [".json", ".json", ".lock"]
    table.mode = "answers"
    await writer.add([])
    assert table.tokens == {"acme": 120} and writer.waiting_rows == 0
    assert files(tmp_path) == [".lock"]
    await writer.aclose()
    assert files(tmp_path) == []


@pytest.mark.parametrize("mode", ["commits and fails", "hangs", "refuses"])
async def test_the_next_process_writes_what_the_last_one_left(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table()
    if mode == "hangs":
        be_patient(monkeypatch, 0.01)
    first = UsageWriter(table, UsageSpool(tmp_path))
    table.mode = mode
    await first.add([used(5)])
    await first.add([used(7)])
    await crash(first)
    be_patient(monkeypatch, 60)
    table.mode = "answers"
    second = UsageWriter(table, UsageSpool(tmp_path))
    await second.recover()
    await second.add([used(1)])
    assert table.tokens == {"acme": 13}
    assert files(tmp_path) == []
    await second.aclose()


async def test_a_crash_between_the_write_and_the_removal_counts_once(tmp_path: Path) -> None:
    table, spool = Table(), UsageSpool(tmp_path)
    batch = Batch(BatchId(spool.writer, 1), (used(5),))
    spool.keep(batch)
    assert await table.add(batch.rows, batch.id)  # and here it died
    assert spool._lock is not None
    spool._lock.close()
    second = UsageWriter(table, UsageSpool(tmp_path))
    await second.recover()
    assert table.tokens == {"acme": 5} and files(tmp_path) == []
    await second.aclose()


async def test_the_lock_of_a_process_that_died_with_nothing_left_is_removed(tmp_path: Path) -> None:
    table = Table()
    first = UsageWriter(table, UsageSpool(tmp_path))
    table.mode = "refuses"
    await first.add([used(5)])
    table.mode = "answers"
    await first.add([])
    second = UsageWriter(table, UsageSpool(tmp_path))
    await second.recover()
    assert files(tmp_path) == [".lock"], "the first one lives"
    await crash(first)
    third = UsageWriter(table, UsageSpool(tmp_path))
    await third.recover()
    assert files(tmp_path) == []
    for writer in (second, third):
        await writer.aclose()


async def test_files_of_a_process_that_lives_are_its_own(tmp_path: Path) -> None:
    table = Table()
    first, second = (UsageWriter(table, UsageSpool(tmp_path)) for _ in range(2))
    table.mode = "refuses"
    await first.add([used(5)])
    table.mode = "answers"
    await second.recover()
    assert not table.tokens and files(tmp_path) == [".json", ".lock"]
    await first.add([used(6)])
    assert table.tokens == {"acme": 11}
    for writer in (first, second):
        await writer.aclose()


async def test_beyond_the_bound_usage_is_lost_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING_ROWS", 3)
    table = Table()
    table.mode = "refuses"
    writer = UsageWriter(table, UsageSpool(tmp_path))
    for tenant in ("a", "b", "c", "d", "e"):
        await writer.add([used(10, tenant)])
    await writer.add([used(1, "c")])  # its row is there
    assert (writer.waiting_rows, writer.lost_tokens) == (3, 20)
    assert sum("is lost" in record.message for record in caplog.records) == 1
    table.mode = "answers"
    await writer.add([used(1, "d")])
    await writer.add([used(1, "d")])
    assert table.tokens == {"a": 10, "b": 10, "c": 11, "d": 1}
    assert writer.lost_tokens == 21, "the first one came before there was room"
    await writer.aclose()


async def test_a_full_disk_keeps_usage_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table, spool = Table(), UsageSpool(tmp_path)
    writer = UsageWriter(table, spool)
    table.mode = "refuses"

    def full(batch: Batch) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(spool, "keep", full)
        await writer.add([used(5)])
        await writer.add([used(6)])
    assert "could not be written to the disk either" in caplog.text and files(tmp_path) == []
    await writer.add([])
    assert files(tmp_path) == [".json", ".json", ".lock"], "the disk has room again"
    table.mode = "answers"
    await writer.add([])
    assert table.tokens == {"acme": 11}
    await writer.aclose()


async def test_a_damaged_file_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table, spool = Table(), UsageSpool(tmp_path)
    for sequence in (1, 2, 3):
        spool.keep(Batch(BatchId(spool.writer, sequence), (used(sequence),)))
    spool.close()
    (tmp_path / f"{spool.writer}.{2:010d}.json").write_text('[{"tenant": "acme"')
    writer = UsageWriter(table, UsageSpool(tmp_path))
    await writer.recover()
    assert table.tokens == {"acme": 4} and files(tmp_path) == [".damaged"]
    assert "cannot be read" in caplog.text
    await writer.aclose()


async def test_an_outage_is_logged_once_and_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table()
    table.mode = "refuses"
    writer = UsageWriter(table, UsageSpool(tmp_path))
    for _ in range(3):
        await writer.add([used(1)])
    (record,) = [record for record in caplog.records if "could not be written" in record.message]
    assert record.exc_info is None
    await writer.aclose()


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.integers(1, 50)),
        st.tuples(st.just("mode"), st.sampled_from(MODES)),
        st.tuples(st.just("crash"), st.none()),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=examples(50))
@given(moves=MOVES)
def test_the_sum_is_right_after_any_outages_and_crashes(
    moves: list[tuple[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def scenario() -> None:
        folder = tmp_path_factory.mktemp("usage")
        table, total = Table(), 0
        writer = UsageWriter(table, UsageSpool(folder))
        for move, value in [*moves, ("mode", "answers"), ("use", 1)]:
            if move == "mode":
                table.mode = value
            elif move == "use":
                total += value
                await writer.add([used(value)])
            else:
                await crash(writer)
                writer = UsageWriter(table, UsageSpool(folder))
                await writer.recover()
        if writer._sending is not None:  # it hangs in a mode of before
            writer._sending.cancel()
            await asyncio.wait({writer._sending})
        for _ in range(100):  # on a busy machine a call returns before what it has begun
            await writer.add([])
            if table.tokens["acme"] == total:
                break
        assert table.tokens["acme"] == total
        await writer.aclose()
        await UsageWriter(table, UsageSpool(folder)).recover()
        assert files(folder) == []

    with pytest.MonkeyPatch.context() as patch:
        be_patient(patch, 0.01)  # a mode may hang
        asyncio.run(scenario())

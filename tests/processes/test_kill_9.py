"""What two customers have at a server survives its `kill -9`: records of chats, and a used budget in money."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from server_process import start
from webhook_receiver import webhook_receiver

from tests.processes.killed_money import FLAGS, check_spent, spend
from tests.processes.killed_records import check_records, record


@pytest.mark.timeout(900)
def test_records_and_a_used_budget_survive(tmp_path: Path) -> None:
    """One server for both, because a start is dear."""
    place, home = tmp_path / "place", tmp_path / "home"
    flags = ("--demo", "--records", str(place), *FLAGS)
    with webhook_receiver() as receiver:
        server = start(*flags, data_dir=home)
        try:
            server.wait_for("/ready", 200)
            record(server)
            spent = spend(server, receiver)
            os.kill(server.pid, signal.SIGKILL)
            server.process.wait(10)
            assert not place.exists(), "the files were still growing"
        finally:
            if server.process.poll() is None:
                server.process.kill()

        again = start(*flags, data_dir=home)
        try:
            again.wait_for("/ready", 200)
            check_spent(again, receiver, spent)
            check_records(again, place)
            assert again.stop() == 0
        finally:
            if again.process.poll() is None:
                again.process.kill()

"""`loragate serve --replicas`: real servers behind a front in a real Ray cluster, on a real PostgreSQL."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import psutil
import pytest
from cluster_load import OPERATOR, chat, load
from postgres_process import postgres_process
from server_process import ServerProcess, start

REPLICAS = 3
pytestmark = pytest.mark.long  # three more servers than the others of this folder share
START_S = 400


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    size = ("--kv-cache-memory-bytes", str(64 << 20), "--max-loras", "2", "--restart-backoff-s", "0.1")
    with postgres_process() as database:
        url = f"postgresql+asyncpg://postgres@/postgres?host={database.folder}"
        variables = {"LORAGATE_DATABASE_URL": url}
        folder = tmp_path_factory.mktemp("ray")
        began = time.monotonic()
        made = start("--demo", "--replicas", str(REPLICAS), *size, data_dir=folder, variables=variables)
        made.wait_for("/ready", 200, START_S)
        wait_for_servers(made)
        print(
            f"{REPLICAS} servers after {time.monotonic() - began:.0f} s, {memory_mib(made)} MiB of Ray's own"
        )
        yield made
        if made.process.poll() is None:
            made.stop(120)


def servers(front: ServerProcess) -> list[psutil.Process]:
    """The servers' processes, not their engines."""
    found = []
    for process in front.children():
        with suppress(psutil.Error):
            if "server.cli" in process.cmdline() and "--data-dir" in process.cmdline():
                found.append(process)
    return found


def memory_mib(front: ServerProcess) -> int:
    """Resident memory of Ray's processes, without the servers."""
    total = 0
    for process in front.children():
        with suppress(psutil.Error):
            name = " ".join(process.cmdline())
            total += process.memory_info().rss if "ray" in name and "server.cli" not in name else 0
    return total >> 20


def live(front: ServerProcess) -> dict[str, Any]:
    return dict(httpx.get(f"{front.url}/admin/v1/live", headers=OPERATOR, timeout=30).json())


def wait_for_servers(front: ServerProcess, least: int = REPLICAS) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if [each["state"] for each in live(front).get("replicas", ())].count("ready") >= least:
            return
        time.sleep(0.5)
    raise AssertionError(f"not all servers are ready: {live(front)}\n{front.tail()}")


@pytest.mark.timeout(900)
def test_one_address_answers_for_all(front: ServerProcess) -> None:
    with httpx.Client(timeout=60) as client:
        for model in ("acme-support", "loragate-demo"):
            assert chat(front.url, client, model).json()["model"] == model
        assert chat(front.url, client, "globex-tools").status_code == 404
        metrics = client.get(f"{front.url}/metrics").text
    told = live(front)
    assert len(told["replicas"]) == REPLICAS and told["adapters_capacity"] == REPLICAS * 8
    assert {f'replica="{each["id"]}"' in metrics for each in told["replicas"]} == {True}
    assert httpx.get(f"{front.url}/internal/replica", headers=OPERATOR).status_code == 404


@pytest.mark.timeout(900)
def test_requests_of_one_adapter_stay_together_while_they_may(front: ServerProcess) -> None:
    with httpx.Client(timeout=60) as client:
        ids = {chat(front.url, client).headers["x-loragate-server"] for _ in range(6)}
    assert len(ids) == 1


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_a_server_that_is_killed_costs_no_request_that_has_not_begun(
    front: ServerProcess, kills: int
) -> None:
    with load(front.url) as running:
        for _ in range(kills):
            wait_for_servers(front, least=REPLICAS - 1)
            time.sleep(2)
            random.choice(servers(front)).send_signal(signal.SIGKILL)
            time.sleep(3)
        wait_for_servers(front)
    print(f"{kills} kills: {dict(running.ends)}")
    assert (running.fresh_failed, running.silent_cuts) == (0, 0), running.ends
    assert running.ends["whole 200"] and running.ends["stream whole"]


@pytest.mark.timeout(900)
def test_a_stop_lets_answers_end_and_leaves_no_process(front: ServerProcess) -> None:
    children = front.children()
    with load(front.url) as running:
        time.sleep(1)
        front.process.send_signal(signal.SIGTERM)
        running.stopped.set()
    assert front.stop(120) == 0
    assert running.ends["stream whole"] == 3 and running.ends.keys() <= {
        "stream whole", "whole 200", "whole ConnectError",
    }, running.ends  # fmt: skip
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []

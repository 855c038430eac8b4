"""`kill -9` of the server while adapters are added, promoted and removed: after the restart everything agrees.

The same with a stand-in for the engine, a second a kill, is tests/unit/adapters/lifecycle/test_crashes.py.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_process import ServerProcess, gone, start
from survival import Admin, admin_of, complete, pack, whole_adapter

NAMES = ("left", "right")
SETTLED = {"ready", "resident", "retired", "failed"}


def live(admin: Admin, bodies: list[bytes], seed: int, acknowledged: dict[str, int]) -> None:
    """Add, promote, remove without end; `acknowledged` has the last generation told per name."""
    chance = random.Random(seed)
    try:
        while True:
            name = chance.choice(NAMES)
            added = admin.upload(name, chance.choice(bodies), promote=False).json()
            if "number" in added:
                promoted = admin.promote(name, added["number"]).json()
                acknowledged[name] = max(acknowledged.get(name, 0), promoted.get("generation", 0))
                if added["number"] > 1:
                    admin.remove(name, version=added["number"] - 1)
            if chance.random() < 0.1:
                admin.remove(name)
    except httpx.HTTPError:
        return  # it was killed


def check(admin: Admin, server: ServerProcess, acknowledged: dict[str, int]) -> None:
    """Registry, store and engine agree, nothing half-made is visible, nothing that was acknowledged is lost."""
    shown = admin.http.get("/admin/v1/adapters").json()["data"]
    everything = [admin.show(row["name"], row["tenant"]) for row in shown]
    everything += [admin.show(name) for name in NAMES if exists(admin, name)]
    ready: set[str] = set()
    for row in everything:
        versions: dict[int, dict[str, Any]] = {v["number"]: v for v in row["versions"]}
        assert {v["state"] for v in versions.values()} <= SETTLED, row
        serving = [v for v in versions.values() if v["state"] in ("ready", "resident")]
        ready |= {v["digest"] for v in serving}
        for target in row["alias"]["targets"]:
            assert versions[target["version"]] in serving, row
        assert row["tenant"] != "acme" or row["alias"]["generation"] >= acknowledged.get(row["name"], 0)
    store = server.data_dir / "demo" / "adapters"
    assert {path.name for path in (store / "sha256").iterdir()} == ready
    assert not list((store / "staging").iterdir())
    for row in everything:
        if row["alias"]["targets"]:
            key = f"demo-{row['tenant']}"
            complete(server.url, key, row["model"])  # raises where it is refused
    assert admin.http.post("/admin/v1/reconcile").json() == {"orphans": [], "missing": [], "stuck": []}


def exists(admin: Admin, name: str) -> bool:
    return admin.http.get(f"/admin/v1/adapters/acme/{name}").status_code == 200


def kill_again_and_again(folder: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    bodies = [pack(whole_adapter(folder / f"source{number}", number)) for number in range(3)]
    acknowledged: dict[str, int] = {}
    for round_number in range(kills + 1):
        server = start("--demo", data_dir=folder / "data")
        children = []
        try:
            server.wait_for("/ready", 200)
            children = server.children()
            with admin_of(server.url) as admin:
                check(admin, server, acknowledged)
                if round_number < kills:
                    work = [bodies, seed + round_number, acknowledged]
                    living = threading.Thread(target=live, args=[admin, *work])
                    living.start()
                    time.sleep(chance.uniform(0.2, 4.0))
                    os.kill(server.pid, signal.SIGKILL)
                    living.join(30)
                    assert not living.is_alive()
        finally:
            if server.process.poll() is None:
                server.process.kill()
            server.process.wait(10)
        # On a busy machine the kernel takes its time to tear such large processes down.
        assert gone(children, 60), "an engine outlived its server"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_server_killed_while_adapters_change(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, kills=1, seed=random.randrange(1 << 30))


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_a_hundred_kills_of_the_server(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, kills=100, seed=1)

"""`loragate deploy`, `front` and `cluster` on a real Ray cluster: rollouts, drains, and one death after the other.

Every row of the table in docs/ray.md, "When something dies", that is not in `test_ray_servers.py`.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import psutil
import pytest
from cluster_load import chat, load
from ray_cluster import OPERATOR, RayCluster, environment, ray_cluster
from server_process import LORAGATE

REPLICAS = 3
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    began = time.monotonic()
    with ray_cluster(tmp_path_factory.mktemp("deployed")) as cluster:
        print(f"Ray's head after {time.monotonic() - began:.0f} s")
        cluster.write(f"replicas = {REPLICAS}")
        began = time.monotonic()
        assert cluster.deploy() == "creates"
        print(f"{REPLICAS} servers after {time.monotonic() - began:.0f} s")
        for _ in range(2):
            cluster.add_front()
        cluster.wait_for(REPLICAS)
        yield cluster


def kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.send_signal(signal.SIGKILL)


def test_the_same_file_changes_nothing_and_every_front_answers(cluster: RayCluster) -> None:
    before = cluster.wait_for(REPLICAS)
    assert cluster.deploy() == "nothing"
    assert cluster.wait_for(REPLICAS) == before
    with httpx.Client(timeout=60) as client:
        for front in cluster.fronts:
            answer = chat(front.url, client)
            assert answer.status_code == 200 and answer.headers["x-loragate-server"] in before
    variables = environment() | {"LORAGATE_URL": cluster.fronts[0].url, "LORAGATE_KEY": "demo-admin"}
    shown = subprocess.run(
        [LORAGATE, "cluster", "status"], env=variables, capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    for row in cluster.status():
        assert row["id"] in shown.stdout and row["kv_use"] >= 0
    assert any("acme-support" in row["held"] for row in cluster.status())


def test_a_rollout_replaces_every_server_and_cuts_no_stream(cluster: RayCluster) -> None:
    before = cluster.wait_for(REPLICAS)
    cluster.write(f"replicas = {REPLICAS}", generation="2")
    with load(cluster.fronts[0].url, asking=2, streaming=24, tokens=100) as running:
        assert cluster.deploy() == "rolls"
        after = cluster.wait_for(REPLICAS, without=frozenset(before))
    print(f"rollout of {REPLICAS}: {dict(running.ends)}")
    assert running.ends.keys() == {"whole 200", "stream whole"} and running.ends["stream whole"] >= 24
    assert not before & after


def test_a_drained_server_ends_its_answers_and_is_replaced(cluster: RayCluster) -> None:
    before = cluster.wait_for(REPLICAS)
    drained = sorted(before)[0]
    with load(cluster.fronts[0].url, asking=2, streaming=6) as running:
        answer = httpx.post(
            f"{cluster.fronts[1].url}/admin/v1/cluster/{drained}/drain", headers=OPERATOR, timeout=30
        )
        assert answer.status_code == 202, answer.text
        after = cluster.wait_for(REPLICAS, without=frozenset({drained}))
    print(f"drain: {dict(running.ends)}")
    assert running.ends.keys() == {"whole 200", "stream whole"}
    assert len(before & after) == REPLICAS - 1


@pytest.mark.parametrize("victim", ["EngineCore", "server.cli", "ServeReplica", "ServeController"])
def test_a_death_costs_no_request_that_has_not_begun(cluster: RayCluster, victim: str) -> None:
    cluster.wait_for(REPLICAS)
    with load(cluster.fronts[0].url) as running:
        time.sleep(1)
        found = cluster.servers() if victim == "server.cli" else cluster.titled(victim)
        assert found, [process.cmdline() for process in cluster.processes()]
        kill(found[0])
        time.sleep(5)
        cluster.wait_for(REPLICAS)
    print(f"{victim}: {dict(running.ends)}")
    assert (running.fresh_failed, running.silent_cuts) == (0, 0), running.ends
    if victim == "ServeController":
        assert "stream failed" not in running.ends


def test_while_the_database_is_away_nothing_fails_silently(cluster: RayCluster) -> None:
    cluster.wait_for(REPLICAS)
    with load(cluster.fronts[0].url) as running:
        time.sleep(1)
        cluster.database.stop()
        time.sleep(8)
        cluster.database.start()
        time.sleep(3)
    print(f"database: {dict(running.ends)}")
    assert running.silent_cuts == 0 and running.ends.keys() <= {
        "whole 200",
        "whole 503",
        "stream whole",
        "stream 503",
    }
    cluster.wait_for(REPLICAS)


def test_fewer_servers_cut_no_stream(cluster: RayCluster) -> None:
    cluster.write(f"replicas = {REPLICAS - 1}", generation="2")
    with load(cluster.fronts[0].url, asking=1, streaming=6) as running:
        assert cluster.deploy() == "scales"
        cluster.wait_for(REPLICAS - 1)
    print(f"scaled down: {dict(running.ends)}")
    assert running.ends.keys() == {"whole 200", "stream whole"}


def test_a_front_that_dies_leaves_the_others(cluster: RayCluster) -> None:
    dead, other = cluster.fronts[1], cluster.fronts[0]
    with load(other.url) as running:
        dead.process.kill()
        dead.process.wait()
        time.sleep(3)
    assert running.ends.keys() == {"whole 200", "stream whole"}


def test_while_the_head_is_away_requests_go_on(cluster: RayCluster) -> None:
    with load(cluster.fronts[0].url) as running:
        (head,) = [each for each in cluster.titled("gcs_server") if each.name() == "gcs_server"]
        kill(head)
        time.sleep(75)  # by default, every process of Ray ends after 60 s
    print(f"head: {dict(running.ends)}")
    assert running.ends.keys() == {"whole 200", "stream whole"}

"""Evaluations on several servers: one runs on one of them, and the death of that one does not lose it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from server_cluster import Cluster, until
from server_process import ServerProcess

import demo

SUPPORT = demo.ADAPTERS["acme-support"]
PATH = "/adapters/acme/support"


@pytest.mark.timeout(600)
def test_an_evaluation_of_a_killed_server_goes_on_on_another_one(cluster: Cluster) -> None:
    victim, other = cluster.servers[0], cluster.servers[1]
    chats = SUPPORT.held_out.read_bytes() + f"\n{' ' * (uuid4().int % 999)}".encode()  # not evaluated before

    def begin(server: ServerProcess) -> dict[str, Any]:
        begun = cluster.admin(
            server,
            "POST",
            f"{PATH}/versions/1/evaluations",
            content=chats,
            headers={"content-type": "application/octet-stream"},
        )
        assert begun.status_code == 202, begun.text
        return dict(begun.json())

    def shown(server: ServerProcess) -> dict[str, Any]:
        return dict(cluster.admin(server, "GET", f"{PATH}/evaluations/{begun['id']}").json())

    begun = begin(victim)
    assert begin(other)["id"] == begun["id"], "it is one evaluation for all servers"
    until(lambda: shown(other)["done"] > 0, 120)
    victim.process.kill()
    victim.process.wait(10)
    victim.guard.dismiss()
    done = shown(other)["done"]
    print(f"killed after {done} turns, state {shown(other)['state']}")
    cluster.servers[0] = cluster.launch()
    until(lambda: begin(other)["state"] == "finished", 240)
    found = shown(cluster.servers[2])
    assert found["figures"]["turns"] == found["turns"] > 100
    assert found["figures"]["exact"] > 0.9
    requests = sum(
        row["requests"] for row in cluster.admin(other, "GET", "/usage").json()["data"] if row["tenant"] == ""
    )
    assert requests < 2 * found["turns"] + 2 * 48, "no turn that was stored is answered again"

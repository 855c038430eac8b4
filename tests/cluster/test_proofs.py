"""With `--prove-on all`, a version gets traffic when every server has loaded and probed it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from server_cluster import Cluster
from survival import whole_adapter


@pytest.mark.timeout(600)
def test_a_version_gets_traffic_when_all_servers_have_proven_it(cluster: Cluster, tmp_path: Path) -> None:
    first = cluster.servers[0]
    name = "/adapters/acme/proven"
    body = {"source": str(whole_adapter(tmp_path, 6, scale=0.1)), "promote": False}
    added = cluster.admin(first, "POST", f"{name}/versions", json=body)
    assert added.status_code == 201, added.text
    servers = cluster.admin(first, "GET", "/servers").json()["data"]
    assert {server["url"] for server in servers} == {server.url for server in cluster.servers}
    promoted = cluster.admin(cluster.servers[1], "POST", f"{name}/promote", json={"version": 1})
    assert promoted.status_code == 200, promoted.text
    assert {server["id"] for server in servers if server["serves"]} == set(promoted.json()["proven_on"])
    assert len(promoted.json()["proven_on"]) == 3
    for server in cluster.servers:
        assert cluster.version(server, "proven")["slot"], "it was loaded before the first request"
        assert cluster.ask(server, "acme-proven").status_code == 200


@pytest.mark.timeout(600)
def test_a_version_that_another_server_cannot_load_is_not_promoted(cluster: Cluster, tmp_path: Path) -> None:
    first, name = cluster.servers[0], "/adapters/acme/unproven"
    body = {"source": str(whole_adapter(tmp_path, 7, scale=0.1)), "promote": False}
    added = cluster.admin(first, "POST", f"{name}/versions", json=body)
    assert added.status_code == 201, added.text
    shutil.rmtree(cluster.folder / "depot" / "sha256" / added.json()["digest"])  # only the first has it now
    refused = cluster.admin(first, "POST", f"{name}/promote", json={"version": 1})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "proof_failed"), error
    others = cluster.admin(first, "GET", "/servers").json()["data"]
    named = [server["url"] for server in others if f"server {server['id'][:8]} " in error["message"]]
    assert len(named) == 1 and named[0] != first.url, error
    assert cluster.admin(first, "GET", name).json()["alias"]["generation"] == 0

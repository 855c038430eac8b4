"""Whichever server is asked: the history and the requests of all."""

from __future__ import annotations

import time

from server_cluster import KEY, Cluster


def test_each_server_knows_the_requests_of_all(cluster: Cluster) -> None:
    answers = [cluster.ask(server) for server in cluster.servers]
    ids = [answer.headers["x-request-id"] for answer in answers]
    own = {"authorization": f"Bearer {KEY}"}
    counted = 0
    for server in cluster.servers:
        history = cluster.admin(server, "GET", "/history?span=hour&tenant=acme").json()
        assert (history["servers"], history["missing"]) == (len(cluster.servers), [])
        counted = max(counted, sum(point["requests"] for point in history["points"]))
        found = [cluster.admin(server, "GET", f"/requests/{request_id}").json() for request_id in ids]
        assert [each["request"]["request_id"] for each in found] == ids
        assert len({each["server"] for each in found}) == len(cluster.servers)
        assert cluster.admin(server, "GET", f"/requests/{ids[0]}", headers=own).status_code == 403
    assert counted >= len(ids)


def test_a_failure_is_listed_once(cluster: Cluster) -> None:
    refused = cluster.ask(cluster.servers[0], model="nothing")
    assert refused.status_code == 404
    wanted = refused.headers["x-request-id"]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        listed = cluster.admin(cluster.servers[1], "GET", "/errors").json()["data"]
        if found := [row for row in listed if row["request_id"] == wanted]:
            break
        time.sleep(0.1)
    assert len(found) == 1

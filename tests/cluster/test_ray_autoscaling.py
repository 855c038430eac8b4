"""A load that rises and falls on a real Ray cluster: a server is added, and removed without a cut answer."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from cluster_load import load
from ray_cluster import RayCluster, ray_cluster

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
SCALING = "autoscaling = {min_replicas = 1, max_replicas = 2, waiting = 2, up_after_s = 2, down_after_s = 10}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with ray_cluster(tmp_path_factory.mktemp("scaled")) as cluster:
        cluster.write(SCALING, more="max_num_seqs = 2")
        assert cluster.deploy() == "creates"
        cluster.add_front()
        cluster.wait_for(1)
        yield cluster


def test_servers_follow_the_load(cluster: RayCluster) -> None:
    url = cluster.fronts[0].url
    with load(url, asking=1, streaming=1) as quiet:
        time.sleep(25)  # more than Serve looks back
        assert len(cluster.status()) == 1, "a quiet load needs one"
    began = time.monotonic()
    with load(url, asking=1, streaming=12) as busy:
        cluster.wait_for(2)
        print(f"a second server is ready after {time.monotonic() - began:.0f} s")
    began = time.monotonic()
    with load(url, asking=1, streaming=1) as calm:
        cluster.wait_for(1)
        print(f"it is gone after {time.monotonic() - began:.0f} s")
    for running in (quiet, busy, calm):
        assert running.ends.keys() == {"whole 200", "stream whole"}, running.ends

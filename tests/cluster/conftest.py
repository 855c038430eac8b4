"""Three servers for all tests of this folder, which leave three behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from server_cluster import Cluster, running_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running

"""Uploads in pieces, behind a balancer that takes turns."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from server_cluster import Cluster
from survival import pack, whole_adapter


@pytest.mark.timeout(600)
def test_every_piece_of_an_upload_reaches_another_server(cluster: Cluster, tmp_path: Path) -> None:
    """As behind a balancer that takes turns."""
    turns = itertools.cycle(cluster.servers)
    archive, name = pack(whole_adapter(tmp_path, 8, scale=0.1)), "/adapters/acme/pieces"
    upload = cluster.admin(next(turns), "POST", f"{name}/uploads").json()["id"]
    size_bytes = len(archive) // 5 + 1
    for offset in range(0, len(archive), size_bytes):
        piece = {"content": archive[offset : offset + size_bytes], "headers": {"upload-offset": str(offset)}}
        sent = cluster.admin(next(turns), "PATCH", f"{name}/uploads/{upload}", **piece)
        assert sent.status_code == 200, sent.text
        wrong = cluster.admin(next(turns), "PATCH", f"{name}/uploads/{upload}", **piece)
        assert wrong.status_code == 409, wrong.text
    added = cluster.admin(next(turns), "POST", f"{name}/versions", json={"source": f"upload:{upload}"})
    assert added.status_code == 201, added.text
    assert cluster.ask(next(turns), "acme-pieces").status_code == 200
    assert cluster.admin(next(turns), "GET", f"{name}/uploads/{upload}").status_code == 404
    # An upload that another test's killed server began may still be there.
    assert not (cluster.folder / "depot" / "uploads" / upload).exists()

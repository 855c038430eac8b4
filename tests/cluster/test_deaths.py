"""A killed server leaves nothing unfinished, and a server that starts leaves the others' work alone.

The servers work all the time: adapters are uploaded in pieces and added, versions are removed while streams use them,
and traffic is split.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_cluster import KEY, Cluster, until
from server_process import ServerProcess, gone
from survival import pack, whole_adapter

#: What a dead server has left is finished or failed after this time.
TAKEN_OVER_S = 10.0
_PIECE_BYTES = 1 << 18


@dataclass
class Work:
    """What clients ask one server for, until it dies; every answer that they get is a promise."""

    cluster: Cluster
    server: ServerProcess
    name: str
    folder: Path
    splits: str
    """An adapter with two versions, whose traffic is split."""
    draw: random.Random
    added: set[str] = field(default_factory=set)
    removing: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    weights: list[dict[str, float]] = field(default_factory=list)
    """The split that was answered last, then what was asked for without an answer."""
    upload: tuple[str, str] | None = None
    """The name and the id of an adapter whose upload has begun and whose version was not answered."""
    streamed: int = 0
    done: dict[str, int] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    """By what each kind of work ended: the server's death, if nothing is wrong."""
    over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Do all of it inside the block, and wait until the clients have seen that the server is gone."""
        threads = [
            threading.Thread(target=self._repeat, args=[part])
            for part in (self._add, self._drain, self._split)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()

    def _repeat(self, part: Any) -> None:
        number = 0
        try:
            while not self.over.is_set():
                part(f"{self.name}{part.__name__.replace('_', '-')}{number}")
                number += 1
                self.done[part.__name__] = number
        except httpx.HTTPError as error:
            self.ended[part.__name__] = repr(error)

    def _add(self, name: str) -> None:
        """Upload in pieces, and promote."""
        path = f"/adapters/acme/{name}/uploads"
        upload = self.cluster.admin(self.server, "POST", path).raise_for_status().json()["id"]
        self.upload = (name, upload)
        self._send(self.server, 0)

    def _send(self, server: ServerProcess, sent: int) -> None:
        """Send the rest of the upload, and make a version of it."""
        assert self.upload is not None
        name, upload = self.upload
        body = pack(self.folder)
        while sent < len(body):
            headers = {"upload-offset": str(sent), "content-type": "application/octet-stream"}
            piece = body[sent : sent + _PIECE_BYTES]
            path = f"/adapters/acme/{name}/uploads/{upload}"
            answer = self.cluster.admin(server, "PATCH", path, content=piece, headers=headers)
            sent = answer.raise_for_status().json()["received_bytes"]
        order = {"source": f"upload:{upload}", "promote": True}
        versions = f"/adapters/acme/{name}/versions"
        self.cluster.admin(server, "POST", versions, json=order).raise_for_status()
        self.added.add(name)
        self.upload = None

    def _go_on(self, others: list[ServerProcess]) -> None:
        """Another server takes the rest of the upload that the death has interrupted.

        404: it was already used; then the version is ready, and was promoted unless the death came in between.
        """
        if self.upload is None:
            return
        (name, upload), server = self.upload, others[-1]
        answer = self.cluster.admin(server, "GET", f"/adapters/acme/{name}/uploads/{upload}")
        if answer.status_code == 404:
            assert self.cluster.version(server, name)["state"] in ("ready", "resident"), name
            body = {"version": 1}
            self.cluster.admin(server, "POST", f"/adapters/acme/{name}/promote", json=body).raise_for_status()
            self.added.add(name)
        else:
            self._send(server, answer.raise_for_status().json()["received_bytes"])
        for other in others:  # the registry tells them within a moment
            self._answered(other, f"acme-{name}")

    def _answered(self, server: ServerProcess, model: str) -> None:
        """Wait until this server answers with it."""
        last_s = time.monotonic() + 10
        while not (answer := self.cluster.ask(server, model)).is_success:
            assert time.monotonic() < last_s, (model, answer.status_code, answer.text)
            time.sleep(0.05)

    def _drain(self, name: str) -> None:
        """Add, and remove while a stream still uses it."""
        self.cluster.add(self.server, name, self.folder).raise_for_status()
        self.added.add(name)
        body = {
            "model": f"acme-{name}",
            "prompt": "Tell me",
            "max_tokens": 200,
            "ignore_eos": True,
            "stream": True,
        }
        headers = {"authorization": f"Bearer {KEY}"}
        url = f"{self.server.url}/v1/completions"
        with httpx.stream("POST", url, json=body, headers=headers, timeout=120) as answer:
            lines = answer.iter_lines()
            next(lines)
            removal = threading.Thread(target=self._remove, args=[name])
            removal.start()
            self.streamed += sum(1 for line in lines if line == "data: [DONE]")
            removal.join()

    def _remove(self, name: str) -> None:
        with suppress(httpx.HTTPError):
            self.removing.add(name)
            self.cluster.admin(self.server, "DELETE", f"/adapters/acme/{name}").raise_for_status()
            self.removed.add(name)

    def _split(self, _: str) -> None:
        """Change the split, and send it some traffic."""
        share = round(self.draw.uniform(0.1, 0.9), 3)
        asked = {"1": share, "2": round(1 - share, 3)}
        self.weights.append(asked)
        path = f"/adapters/acme/{self.splits}/split"
        self.cluster.admin(self.server, "POST", path, json={"weights": asked}).raise_for_status()
        self.weights = [asked]
        self.cluster.ask(self.server, f"acme-{self.splits}", user=str(share))

    def check(self, others: list[ServerProcess]) -> None:
        """Every promise is kept by the others."""
        self._go_on(others)
        for server in others:
            for name in self.added - self.removing:
                answer = self.cluster.ask(server, f"acme-{name}")
                assert answer.status_code == 200, (name, answer.text)
            for name in self.removed:
                assert self.cluster.ask(server, f"acme-{name}").status_code == 404, name
            assert self.cluster.weights(server, self.splits) in self.weights
            for model in ("loragate-demo", "acme-support", f"acme-{self.splits}"):
                answer = self.cluster.ask(server, model)
                assert answer.status_code == 200, answer.text

    def clean_up(self, server: ServerProcess) -> None:
        """Remove what is left: the next deaths need not look at it."""
        for name in self.added | self.removing:
            self.cluster.admin(server, "DELETE", f"/adapters/acme/{name}")


def kill_while_it_works(cluster: Cluster, draw: random.Random, number: int, folder: Path) -> dict[str, int]:
    """Kill a server, see that the others finish or fail what it has begun, and start another in its place.

    Returns what it had done before, by kind.
    """
    victim = draw.choice(cluster.servers)
    others = [server for server in cluster.servers if server is not victim]
    work = Work(cluster, victim, f"kill{number}", folder, folder.parent.name.replace("_", "-"), draw)
    work.weights = [cluster.weights(others[0], work.splits)]
    began_s = time.monotonic()
    with work.going_on():
        if number % 2:  # in the first moment of its work, or when it has done some of each kind
            until(lambda: len(work.done) == 3 or bool(work.ended), 90)
        time.sleep(0.3 + 2.0 * draw.random())
        assert not work.ended, work.ended
        engine = victim.children()
        victim.process.kill()
        killed_s = time.monotonic()
        victim.process.wait(10)
        victim.guard.dismiss()
    cluster.servers.remove(victim)
    try:
        assert gone(engine), "an engine outlives its server"
        time.sleep(TAKEN_OVER_S)  # before, it is not known to be dead
        while left := cluster.owned_by_the_dead() + [[str(v)] for v in cluster.unfinished(others[0])]:
            assert time.monotonic() - killed_s < TAKEN_OVER_S + 2, left
            time.sleep(0.1)
        taken_s = time.monotonic() - killed_s
        work.check(others)
        work.clean_up(others[0])
    finally:  # the next tests need three
        cluster.servers.append(cluster.launch())
    print(f"kill {number}: {killed_s - began_s:.1f} s of work {work.done}, taken over after {taken_s:.1f} s")
    return work.done


@pytest.fixture
def halves(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """The folder of an adapter, of which two versions share the traffic; acme has limits, so that servers lease."""
    folder, first = whole_adapter(tmp_path / "whole", 5, scale=0.1), cluster.servers[0]
    name = tmp_path.name.replace(
        "_", "-"
    )  # a name of its own: versions of removed adapters keep their numbers
    for promote in (True, False):
        cluster.add(first, name, folder, promote=promote).raise_for_status()
    limits = {"rpm": 100_000, "tpm": 10_000_000, "max_concurrency": 64}
    cluster.admin(first, "PATCH", "/tenants/acme", json=limits).raise_for_status()
    yield folder
    cluster.admin(cluster.servers[0], "PATCH", "/tenants/acme", json=dict.fromkeys(limits)).raise_for_status()
    cluster.admin(cluster.servers[0], "DELETE", f"/adapters/acme/{name}")


@pytest.mark.timeout(600)
def test_a_killed_server_leaves_nothing_unfinished(cluster: Cluster, halves: Path) -> None:
    kill_while_it_works(cluster, random.Random(1), 0, halves)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(5))
def test_twenty_killed_servers_leave_nothing_unfinished(cluster: Cluster, halves: Path, part: int) -> None:
    draw, kinds = random.Random(part + 2), set()
    for number in range(4):
        kinds |= kill_while_it_works(cluster, draw, 1 + 4 * part + number, halves).keys()
    assert kinds == {"_add", "_drain", "_split"}, "it worked too little to leave anything"

"""How soon the other servers do what one server was asked for.

    python -m benchmarks replicas [--servers 3] [--rounds 5]

Starts a PostgreSQL and demo servers on it, with one depot. Each round asks the first server to add an adapter, to
promote a second version, to revoke a key and to remove the adapter, and asks the others until they have followed.
A figure is the slowest of all rounds and servers, in seconds from the answer to the operator:

- `added_elsewhere_s`: to the first answer of the adapter. The files come from the depot.
- `flipped_elsewhere_s`: to the last request that the old version answered.
- `revoked_elsewhere_s`: to the last request that the key was good for.
- `retired_everywhere_s`: until the version has left the memory of every engine, and is retired.

`…_median_s` are the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import uvloop

from benchmarks.harness.admin_client import pack
from benchmarks.harness.demo_server import DEMO_KEYS, OPERATOR_KEY
from benchmarks.harness.errors import BenchmarkFailed
from benchmarks.harness.processes.postgres_process import postgres_process
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.report import Bounds, publish
from benchmarks.harness.servers import scratch
from benchmarks.many_servers.shared_servers import shared_servers
from demo.random_adapter import write_random_adapter

BOUNDS: Final[Bounds] = {
    "added_elsewhere_s": ("<=", 10.0),
    "flipped_elsewhere_s": ("<=", 0.5),
    "revoked_elsewhere_s": ("<=", 0.5),
    "retired_everywhere_s": ("<=", 20.0),
}
Condition = Callable[[httpx.AsyncClient], Awaitable[bool]]
_TENANT, _ADAPTER = "acme", "spread"
_MODEL = f"{_TENANT}-{_ADAPTER}"
_OPERATOR = {"authorization": f"Bearer {OPERATOR_KEY}"}
_TIMEOUT_S = 60.0
_POLL_S = 0.01


def main(argv: Sequence[str]) -> int:
    """Measure; 0 if every bound holds, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks replicas", description="How soon servers follow."
    )
    parser.add_argument("--servers", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--quiet", action="store_true", help="print no progress")
    options = parser.parse_args(argv)
    progress = ProgressReporter(quiet=options.quiet)
    with scratch() as home, postgres_process() as database:
        folders = [write_random_adapter(home / f"v{seed}", seed=seed) for seed in (3, 4)]
        with shared_servers(database, home, options.servers) as servers:
            progress.log(f"{len(servers)} servers are ready")
            measured = uvloop.run(
                _measure([server.url for server in servers], folders, options.rounds, progress)
            )
    flags = {"servers": options.servers, "rounds": options.rounds}
    return publish("replicas", figures_of(measured), BOUNDS, options.out, flags=flags)


def figures_of(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    """The slowest and the median round of each figure."""
    figures: dict[str, float] = {}
    for name in measured[0]:
        seconds = [one[name] for one in measured]
        figures[f"{name}_s"] = round(max(seconds), 3)
        figures[f"{name}_median_s"] = round(statistics.median(seconds), 3)
    return figures


async def _measure(
    urls: Sequence[str], folders: Sequence[Path], rounds: int, progress: ProgressReporter
) -> list[dict[str, float]]:
    measured = []
    clients = [httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S) for url in urls]
    for number in range(rounds):
        measured.append(await Round(clients[0], clients[1:], folders).run())
        progress.log(f"round {number + 1} of {rounds}: {figures_of(measured[-1:])}")
    for client in clients:
        await client.aclose()
    return measured


@dataclass(slots=True)
class Round:
    """One round: the first server is asked, the others follow."""

    first: httpx.AsyncClient
    others: Sequence[httpx.AsyncClient]
    folders: Sequence[Path]
    path: str = f"/admin/v1/adapters/{_TENANT}/{_ADAPTER}"

    async def run(self) -> dict[str, float]:
        """Figure → seconds, the slowest of the other servers."""
        added_s = await self._add()
        return {
            "added_elsewhere": added_s,
            "flipped_elsewhere": await self._flip(),
            "revoked_elsewhere": await self._revoke(),
            "retired_everywhere": await self._retire(),
        }

    async def _add(self) -> float:
        await self._upload(self.folders[0], promote=True)
        asked_s = time.monotonic()

        async def answers(server: httpx.AsyncClient) -> bool:
            return (await _ask(server, DEMO_KEYS[_TENANT])) is not None

        return await self._slowest(answers, asked_s)

    async def _flip(self) -> float:
        """Both versions answer on each server before the flip, so that it waits for nothing else."""
        number = await self._upload(self.folders[1], promote=False)
        key = DEMO_KEYS[_TENANT]
        for server in self.others:
            await _ask(server, key)
        old = await _ask(self.others[0], key)
        answered = await self.first.post(f"{self.path}/promote", json={"version": number}, headers=_OPERATOR)
        answered.raise_for_status()
        flipped_s = time.monotonic()

        async def is_old(server: httpx.AsyncClient) -> bool:
            return await _ask(server, key) == old

        return await self._last(is_old, flipped_s)

    async def _revoke(self) -> float:
        body = {"tenant": _TENANT, "role": "inference"}
        issued = (
            (await self.first.post("/admin/v1/keys", json=body, headers=_OPERATOR)).raise_for_status().json()
        )

        async def is_good(server: httpx.AsyncClient) -> bool:
            headers = {"authorization": f"Bearer {issued['secret']}"}
            return (await server.get("/v1/models", headers=headers)).status_code == 200

        await self._slowest(is_good, time.monotonic())
        path = f"/admin/v1/keys/{issued['id']}"
        (await self.first.delete(path, headers=_OPERATOR)).raise_for_status()
        return await self._last(is_good, time.monotonic())

    async def _retire(self) -> float:
        for server in self.others:
            await _ask(server, DEMO_KEYS[_TENANT])
        (await self.first.delete(self.path, headers=_OPERATOR)).raise_for_status()
        asked_s = time.monotonic()

        async def has_left(server: httpx.AsyncClient) -> bool:
            view = (await server.get(self.path, headers=_OPERATOR)).raise_for_status().json()
            states = {version["state"] for version in view["versions"]}
            return states == {"retired"} and all(version["slot"] is None for version in view["versions"])

        return max(await self._slowest(has_left, asked_s), await _until(has_left, self.first, asked_s))

    async def _upload(self, folder: Path, *, promote: bool) -> int:
        headers = _OPERATOR | {"content-type": "application/x-tar"}
        path = f"{self.path}/versions"
        added = await self.first.post(
            path, params={"promote": promote}, content=pack(folder), headers=headers
        )
        return int(added.raise_for_status().json()["number"])

    async def _slowest(self, condition: Condition, since_s: float) -> float:
        return max(await asyncio.gather(*(_until(condition, server, since_s) for server in self.others)))

    async def _last(self, condition: Condition, since_s: float) -> float:
        return max(await asyncio.gather(*(_last_true(condition, server, since_s) for server in self.others)))


async def _until(condition: Condition, server: httpx.AsyncClient, since_s: float) -> float:
    """Seconds until it holds. Raises: BenchmarkFailed: it does not within a minute."""
    while not await condition(server):
        if time.monotonic() - since_s > _TIMEOUT_S:
            raise BenchmarkFailed(f"A server has not followed after {_TIMEOUT_S:.0f} s.")
        await asyncio.sleep(_POLL_S)
    return time.monotonic() - since_s


async def _last_true(condition: Condition, server: httpx.AsyncClient, since_s: float) -> float:
    """Seconds to the moment at which it was last asked and held; 0 where it held never again."""
    held_s = since_s
    while True:
        asked_s = time.monotonic()
        if not await condition(server):
            return held_s - since_s
        held_s = asked_s
        if held_s - since_s > _TIMEOUT_S:
            raise BenchmarkFailed(f"A server has not followed after {_TIMEOUT_S:.0f} s.")
        await asyncio.sleep(_POLL_S)


async def _ask(server: httpx.AsyncClient, key: str) -> str | None:
    """What the adapter answers; None where the server does not know it."""
    body: dict[str, Any] = {"model": _MODEL, "prompt": "Tell me", "max_tokens": 8, "temperature": 0}
    headers = {"authorization": f"Bearer {key}"}
    answer = await server.post("/v1/completions", json=body, headers=headers)
    if answer.status_code == 404:
        return None
    return str(answer.raise_for_status().json()["choices"][0]["text"])

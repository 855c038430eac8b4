"""What a front answers for all servers together: metrics, the live view, and the list of the servers.

Most other routes of /admin/v1 give the same answer on every server, because they read the registry, or because the
server asks the others (`server.cluster.peers`). `/state` tells of the one server that is asked.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import aiohttp
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.responses import JSONResponse, PlainTextResponse, Response

_TIMEOUT = aiohttp.ClientTimeout(10)
#: As `server.api.health` answers.
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Server(Protocol):
    """One server: its id and its url."""

    @property
    def id(self) -> str:
        """Unique in the cluster."""

    @property
    def url(self) -> str:
        """Where it is reached."""


Answers = Sequence[tuple[Server, int, bytes, str]]
"""Of each server that answered: itself, status, body and type."""


def merged_metrics(texts: Mapping[str, str]) -> bytes:
    """The series of all servers in one text; each has the label `replica`.

    Args:
        texts: replica id → its /metrics.
    """
    families: dict[str, Metric] = {}
    for replica, text in texts.items():
        for family in text_string_to_metric_families(text):
            into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.samples.append(sample._replace(labels={**sample.labels, "replica": replica}))
    return generate_latest(_Families(families.values()))


def merged_live(lives: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One live view: amounts are added up per tenant, and `replicas` has the state of each server."""
    first = next(iter(lives.values()))
    tenants: dict[str, dict[str, Any]] = {}
    for live in lives.values():
        for row in live["tenants"]:
            tenants[row["tenant"]] = _added(tenants.get(row["tenant"]), row)
    states = [live["state"] for live in lives.values()]
    merged: dict[str, Any] = {
        **_added_all(live.get("capacity") for live in lives.values()),
        "state": "ready" if "ready" in states else first["state"],
        "adapters_loaded": sum(live["adapters_loaded"] for live in lives.values()),
        "tenants": list(tenants.values()),
        "replicas": [
            {"id": replica, "state": live["state"], "adapters_loaded": live["adapters_loaded"]}
            for replica, live in lives.items()
        ],
    }
    if "adapters_capacity" in first:
        merged["adapters_capacity"] = sum(live["adapters_capacity"] for live in lives.values())
    return merged


def merged_cluster(lists: Mapping[str, Mapping[str, Any]], silent: Iterable[Server] = ()) -> dict[str, Any]:
    """One list of servers with the ids that `x-loragate-server` has.

    Args:
        lists: replica id → its own answer, with one server.
        silent: those that have not answered; only the registry's id and the url are known of them.
    """
    rows = [row | {"id": replica} for replica, found in lists.items() for row in found["data"]]
    (known, *_) = rows
    nothing = dict.fromkeys(known)
    rows += [nothing | {"id": each.id, "url": each.url, "state": "unreachable"} for each in silent]
    return {"data": sorted(rows, key=lambda row: str(row["id"]))}


async def _metrics(
    own: Callable[[], bytes], http: aiohttp.ClientSession, servers: Sequence[Server], headers: dict[str, str]
) -> Response:
    answers = await _ask_all(http, servers, "/metrics", headers)
    if not answers:  # how long that lasts is seen in the front's own series
        return PlainTextResponse(own(), media_type=METRICS_TYPE)
    if refusal := _refusal(answers):
        return refusal
    texts = {server.id: body.decode() for server, _, body, _ in answers}
    merged = await asyncio.to_thread(merged_metrics, texts)
    return PlainTextResponse(merged + own(), media_type=METRICS_TYPE)


async def _live(http: aiohttp.ClientSession, servers: Sequence[Server], headers: dict[str, str]) -> Response:
    return await _merged_json(http, servers, headers, "/admin/v1/live", merged_live)


async def _cluster(
    http: aiohttp.ClientSession, servers: Sequence[Server], headers: dict[str, str]
) -> Response:
    def merged(lists: dict[str, Any]) -> dict[str, Any]:
        return merged_cluster(lists, [each for each in servers if each.id not in lists])

    return await _merged_json(http, servers, headers, "/admin/v1/cluster", merged)


async def _merged_json(
    http: aiohttp.ClientSession,
    servers: Sequence[Server],
    headers: dict[str, str],
    path: str,
    merge: Callable[[dict[str, Any]], dict[str, Any]],
) -> Response:
    answers = await _ask_all(http, servers, path, headers)
    if refusal := _refusal(answers):
        return refusal
    return JSONResponse(merge({server.id: json.loads(body) for server, _, body, _ in answers}))


async def _ask_all(
    http: aiohttp.ClientSession, servers: Sequence[Server], path: str, headers: dict[str, str]
) -> Answers:
    """Answers of the servers that answer; the others are left out."""

    async def ask(server: Server) -> tuple[Server, int, bytes, str]:
        async with http.get(server.url + path, headers=headers, timeout=_TIMEOUT) as answer:
            return server, answer.status, await answer.read(), answer.content_type

    found = await asyncio.gather(*map(ask, servers), return_exceptions=True)
    return [each for each in found if not isinstance(each, BaseException)]


def _refusal(answers: Answers) -> Response | None:
    """The answer of the first server that refuses, such as a 401; None if all agree to answer."""
    for _, status, body, kind in answers:
        if status != 200:
            return Response(body, status, media_type=kind)
    return None if answers else JSONResponse({"error": {"message": "No server answers."}}, 503)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _added(sum_so_far: dict[str, Any] | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of the KV cache and of requests are added; the weight and the name are the tenant's."""
    if sum_so_far is None:
        return dict(row)
    return {
        name: value
        if name in ("tenant", "weight") or not isinstance(value, int)
        else value + sum_so_far[name]
        for name, value in row.items()
    }


def _added_all(capacities: Iterable[Mapping[str, int] | None]) -> dict[str, Any]:
    found = [capacity for capacity in capacities if capacity]
    if not found:
        return {}
    total: Counter[str] = Counter()
    for capacity in found:
        total.update(capacity)
    return {"capacity": {**total, "block_size_tokens": found[0]["block_size_tokens"]}}


Merge = Callable[[aiohttp.ClientSession, Sequence[Server], dict[str, str]], Awaitable[Response]]


def merges(own_metrics: Callable[[], bytes]) -> dict[str, Merge]:
    """Path → what answers it for all servers; `own_metrics` are the front's, as text."""
    return {
        "/metrics": partial(_metrics, own_metrics),
        "/admin/v1/live": _live,
        "/admin/v1/cluster": _cluster,
    }

"""Clients that stream while an alias is swapped under them, and the judgement of what they got."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import tarfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

import demo
from benchmarks.harness.client import Clients, Sample
from benchmarks.harness.workload import Request

_PROMPTS = 12
_SETTLE_S = 2.0
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class Alias:
    """One adapter's alias over the admin API. Raises httpx.HTTPStatusError where the server refuses."""

    def __init__(self, url: str, operator_key: str, tenant: str, adapter: str) -> None:
        self._path = f"/admin/v1/adapters/{tenant}/{adapter}"
        headers = {"authorization": f"Bearer {operator_key}"}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=300)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def version(self) -> int:
        """The version that has all the traffic."""
        row = await self._call("GET", "")
        return int(row["alias"]["targets"][0]["version"])

    async def add(self, folder: Path) -> int:
        """Upload a version that serves nothing yet; returns its number."""
        headers = {"content-type": "application/x-tar"}
        body = pack(folder)
        row = await self._call("POST", "/versions", params={"promote": False}, content=body, headers=headers)
        return int(row["number"])

    async def promote(self, version: int) -> None:
        """All traffic to a version."""
        await self._call("POST", "/promote", json={"version": version})

    async def restore(self, first: int, second: int) -> None:
        """As it was before `second` was added."""
        await self.promote(first)
        await self._call("DELETE", f"/versions/{second}")

    async def _call(self, method: str, path: str, **request: Any) -> Any:
        answer = await self._http.request(method, self._path + path, **request)
        answer.raise_for_status()
        return answer.json()


def pack(folder: Path) -> bytes:
    """An adapter's files as a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in _ADAPTER_FILES:
            tar.add(folder / name, arcname=name)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Answers:
    """What each version answers when nothing else runs: version → prompt → text; `other` is left alone."""

    swapped: str
    other: str
    versions: Mapping[int, Mapping[str, str]]
    other_answers: Mapping[str, str]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Those whose answers tell the versions apart."""
        return tuple(self.other_answers)


@dataclass(frozen=True, slots=True)
class Swap:
    """One promotion: when it was sent and had returned, the request sent right after it, and when that was over."""

    version: int
    sent_s: float
    returned_s: float
    probe: Sample
    over_s: float


@dataclass(slots=True)
class Verdict:
    """Requests that failed, answers that are no version's, answers of a version that no longer served.

    `across` counts requests that ran while a promotion took effect: those that could have been mixed. `dated`
    counts those that only one version may have answered: those that could have been stale.
    """

    failed: int = 0
    mixed: int = 0
    stale: int = 0
    across: int = 0
    dated: int = 0


async def solo_answers(
    clients: Clients, swapped: str, other: str, versions: tuple[int, int], output_tokens: int
) -> Answers:
    """Ask every version every prompt, one after the other."""
    asked: dict[str, dict[str, str]] = {}
    names = [other, *(f"{swapped}@{version}" for version in versions)]
    for prompt in held_out_prompts():
        asked[prompt] = {}
        for name in names:
            request = Request(0, name.partition("-")[0], name, prompt, 0, output_tokens)
            sample = await clients.send(request, time.perf_counter())
            if sample.error is not None:
                raise httpx.HTTPError(f"{name} did not answer alone: {sample.error}")
            asked[prompt][name] = sample.text
    telling = {prompt: texts for prompt, texts in asked.items() if texts[names[1]] != texts[names[2]]}
    return Answers(
        swapped,
        other,
        {
            version: {prompt: texts[name] for prompt, texts in telling.items()}
            for version, name in zip(versions, names[1:], strict=True)
        },
        {prompt: texts[other] for prompt, texts in telling.items()},
    )


def held_out_prompts() -> list[str]:
    """First questions of both demo tenants that no adapter was trained on."""
    prompts: list[str] = []
    for adapter in demo.ADAPTERS.values():
        lines = adapter.held_out.read_text(encoding="utf-8").splitlines()[: _PROMPTS // 2]
        prompts += [json.loads(line)["messages"][0]["content"] for line in lines]
    return prompts


@dataclass(slots=True)
class Traffic:
    """Closed-loop clients on both models; every answer is kept."""

    clients: Clients
    answers: Answers
    output_tokens: int
    samples: list[tuple[str, Sample]] = field(default_factory=list)
    _origin_s: float = field(default_factory=time.perf_counter)
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: Any = field(default_factory=itertools.count)

    def now_s(self) -> float:
        """Seconds on the clock that samples use."""
        return time.perf_counter() - self._origin_s

    @contextlib.asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator[None]:
        """Keep so many clients busy inside the block; their last answers are awaited."""
        models = (self.answers.swapped, self.answers.other)
        tasks = [asyncio.create_task(self._client(models[number % 2])) for number in range(clients)]
        try:
            yield
        finally:
            self._over.set()
            await asyncio.gather(*tasks)

    async def settled(self) -> None:
        """Until the clients have come apart."""
        await asyncio.sleep(_SETTLE_S)

    async def probe(self, model: str, pause_s: float) -> Sample:
        """One more request, and a pause."""
        sample = await self._send(model)
        await asyncio.sleep(pause_s)
        return sample

    async def _client(self, model: str) -> None:
        while not self._over.is_set():
            await self._send(model)

    async def _send(self, model: str) -> Sample:
        number = next(self._numbers)
        prompt = self.answers.prompts[number % len(self.answers.prompts)]
        request = Request(number, model.partition("-")[0], model, prompt, 0, self.output_tokens)
        sample = await self.clients.send(request, self._origin_s)
        self.samples.append((prompt, sample))
        return sample


def check(samples: Sequence[tuple[str, Sample]], answers: Answers, swaps: Sequence[Swap]) -> Verdict:
    """Hold every answer against the versions' own, and against those that may have served it."""
    verdict = Verdict()
    for prompt, sample in samples:
        if sample.error is not None:
            verdict.failed += 1
            continue
        if sample.model == answers.other:
            verdict.mixed += sample.text != answers.other_answers[prompt]
            continue
        verdict.across += any(sample.sent_s <= swap.returned_s <= sample.end_s for swap in swaps)
        by = {version for version, texts in answers.versions.items() if texts[prompt] == sample.text}
        served = serving_between(
            sample.sent_s, sample.pieces_s[0] if sample.pieces_s else sample.end_s, swaps
        )
        verdict.mixed += not by
        verdict.dated += len(served) == 1
        verdict.stale += bool(by) and bool(served) and not by & served
    return verdict


def serving_between(sent_s: float, first_s: float, swaps: Sequence[Swap]) -> set[int]:
    """The versions that may serve a request of which these are the times of sending and of the first token.

    It was routed at some moment in between, so a promotion that ran during any part of it leaves both possible.
    Empty before the first promotion.
    """
    before = [swap.version for swap in swaps if swap.returned_s <= sent_s][-1:]
    meanwhile = [swap.version for swap in swaps if swap.sent_s <= first_s and swap.returned_s > sent_s]
    return {*before, *meanwhile} if before else set()


def gaps_between(
    samples: Sequence[tuple[str, Sample]], model: str, times: Sequence[tuple[float, float]]
) -> list[float]:
    """Inter-token latencies of a model whose later token came within one of the spans of time."""
    return [
        later - earlier
        for _, sample in samples
        if sample.model == model
        for earlier, later in itertools.pairwise(sample.pieces_s)
        if any(begin <= later < end for begin, end in times)
    ]

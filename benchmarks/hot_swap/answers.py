"""The answers of each version on an idle server, and the comparison of answers under swaps with them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx

import demo
from benchmarks.harness.client import RequestResult, TenantClients
from benchmarks.harness.workload import Request

_PROMPTS = 12


@dataclass(frozen=True, slots=True)
class ReferenceAnswers:
    """The answers of each version on an idle server.

    `versions` are those of the adapter `swapped`: version → prompt → text. `other_answers` are those of the adapter
    `other`, which is not swapped: prompt → text. `blended` are those of requests that ask for `swapped` and
    `companion` together, with the version that `swapped` has.
    """

    swapped: str
    other: str
    versions: Mapping[int, Mapping[str, str]]
    other_answers: Mapping[str, str]
    companion: str | None = None
    blended: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    def blend(self, model: str) -> tuple[tuple[str, float], ...]:
        """The adapters of a request to this model: those that are blended, for the companion."""
        return blend_of(self.swapped, model) if model == self.companion else ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts that the two versions answer differently."""
        return tuple(self.other_answers)


@dataclass(frozen=True, slots=True)
class Swap:
    """One promotion: when it was sent and had returned, the request sent after it, and when that request ended."""

    version: int
    sent_s: float
    returned_s: float
    probe: RequestResult
    ended_s: float


@dataclass(slots=True)
class AnswerCounts:
    """Failed requests, answers that are no version's (`mixed`), and answers of a replaced version (`stale`).

    `across` counts requests that ran while a promotion took effect: those that could have been mixed. `dated`
    counts those that only one version may have answered: those that could have been stale.
    """

    failed: int = 0
    mixed: int = 0
    stale: int = 0
    across: int = 0
    dated: int = 0


def blend_of(first: str, second: str) -> tuple[tuple[str, float], ...]:
    """The blend that requests ask for."""
    return ((first, 1.0), (second, 0.5))


async def reference_answers(
    clients: TenantClients,
    swapped: str,
    other: str,
    versions: tuple[int, int],
    output_tokens: int,
    *,
    companion: str | None = None,
) -> ReferenceAnswers:
    """Send every prompt to every version and blend, one after the other.

    Raises: httpx.HTTPError if a request fails.
    """
    names = {version: f"{swapped}@{version}" for version in versions}
    answers: dict[str, dict[str, str]] = {}
    for name in (other, *names.values()):
        answers[name] = await _answers(clients, name, output_tokens, ())
    for name in names.values() if companion else ():
        answers[f"blend of {name}"] = await _answers(
            clients, name, output_tokens, blend_of(name, str(companion))
        )
    first, second = (answers[name] for name in names.values())
    differing = [prompt for prompt in first if first[prompt] != second[prompt]]
    kept = {name: {prompt: texts[prompt] for prompt in differing} for name, texts in answers.items()}
    blended = {number: kept[f"blend of {name}"] for number, name in names.items()} if companion else {}
    by_version = {number: kept[name] for number, name in names.items()}
    return ReferenceAnswers(swapped, other, by_version, kept[other], companion, blended)


async def _answers(
    clients: TenantClients, name: str, output_tokens: int, blend: tuple[tuple[str, float], ...]
) -> dict[str, str]:
    texts = {}
    for prompt in held_out_prompts():
        request = Request(0, name.partition("-")[0], name, prompt, output_tokens, blend)
        result = await clients.send(request, time.perf_counter())
        if result.error is not None:
            raise httpx.HTTPError(f"{name} did not answer on an idle server: {result.error}.")
        texts[prompt] = result.text
    return texts


def held_out_prompts() -> list[str]:
    """First questions of both demo tenants that no adapter was trained on."""
    prompts: list[str] = []
    for adapter in demo.ADAPTERS.values():
        lines = adapter.held_out.read_text(encoding="utf-8").splitlines()[: _PROMPTS // 2]
        prompts += [json.loads(line)["messages"][0]["content"] for line in lines]
    return prompts


def check_answers(
    results: Sequence[tuple[str, RequestResult]], reference: ReferenceAnswers, swaps: Sequence[Swap]
) -> AnswerCounts:
    """Compare every answer with the reference answers of the versions that may have served it."""
    counts = AnswerCounts()
    for prompt, result in results:
        if result.error is not None:
            counts.failed += 1
            continue
        if result.model == reference.other:
            counts.mixed += result.text != reference.other_answers[prompt]
            continue
        counts.across += any(result.sent_s <= swap.returned_s <= result.end_s for swap in swaps)
        versions = reference.blended if result.model == reference.companion else reference.versions
        matching = {version for version, texts in versions.items() if texts[prompt] == result.text}
        first_s = result.event_times_s[0] if result.event_times_s else result.end_s
        possible = serving_between(result.sent_s, first_s, swaps)
        counts.mixed += not matching
        counts.dated += len(possible) == 1
        counts.stale += bool(matching) and bool(possible) and not matching & possible
    return counts


def serving_between(sent_s: float, first_s: float, swaps: Sequence[Swap]) -> set[int]:
    """The versions that may serve a request that was sent at `sent_s` and had its first token at `first_s`.

    The request was routed at some moment in between, so a promotion that ran during any part of it leaves both
    versions possible. Empty before the first promotion.
    """
    before = [swap.version for swap in swaps if swap.returned_s <= sent_s][-1:]
    meanwhile = [swap.version for swap in swaps if swap.sent_s <= first_s and swap.returned_s > sent_s]
    return {*before, *meanwhile} if before else set()

"""Servers in alternating rounds: the order, and the same requests for both."""

from __future__ import annotations

from benchmarks.harness.client import RequestResult, TenantClients
from benchmarks.harness.compare import ComparisonConfig, compare
from benchmarks.harness.load_generator import RunLength
from benchmarks.harness.progress import ProgressReporter
from benchmarks.harness.workload import Arrivals, Lengths, Popularity, Request, Workload

WORKLOAD = Workload(
    {"acme": 1}, {"acme": ["acme-support"]}, Popularity(), Lengths("fixed", 4), Lengths("fixed", 4)
)


class Recorder(TenantClients):
    """Answers at once, and records (server, prompt) in a list that all servers share."""

    def __init__(self, name: str, sent: list[tuple[str, str]]) -> None:
        super().__init__("http://nowhere", {})
        self.name, self.sent = name, sent

    async def send(self, request: Request, origin_s: float, due_s: float | None = None) -> RequestResult:
        self.sent.append((self.name, request.prompt))
        return RequestResult(request.number, request.tenant, request.model, 0.0, 0.0)


async def test_rounds_alternate_and_have_the_same_prompts_for_all_servers() -> None:
    sent: list[tuple[str, str]] = []
    servers: dict[str, TenantClients] = {name: Recorder(name, sent) for name in ("ours", "peer")}
    config = ComparisonConfig(WORKLOAD, Arrivals("clients", 1), RunLength(60, requests=1), 2, warm_up_s=0)
    runs = await compare(servers, config, ProgressReporter(quiet=True))
    assert [name for name, _ in sent] == ["ours", "peer", "peer", "ours"]
    prompts = [prompt for _, prompt in sent]
    assert prompts[0] == prompts[1] != prompts[2] == prompts[3]
    assert {name: len(results) for name, results in runs.items()} == {"ours": 2, "peer": 2}

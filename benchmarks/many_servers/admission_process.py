"""One server's admission without its engine: `Admission` and `Leases` on the real database, and clients beside them.

`python -m benchmarks limits --without-engine` starts several. Each writes a line of JSON for each call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import uvloop

from adapters.errors import RegistryUnavailable
from adapters.registry import Registry, connect
from adapters.registry.replicas.membership import HEARTBEAT_S
from adapters.tenant_settings import TenantSettings
from benchmarks.many_servers.limited_tenants import ANSWERED, UNAVAILABLE, Call, LimitedTenant
from benchmarks.many_servers.recount import Use
from server.admission import Admission, Reservation
from server.admission.errors import BudgetExhausted, RateLimited, TooManyConcurrent, TryLater
from server.admission.leases import REPORT_INTERVAL_S, Leases
from server.fairness.shares import Capacity

_CAPACITY = Capacity(kv_blocks=100_000, block_size_tokens=16, max_num_seqs=1024)
_TOKEN_S = 0.005
#: The first line of the output: the process has started, and reads when to end (monotonic seconds) from its input.
READY = "ready"
#: A refused client sends again after this time in the mean.
_PAUSE_S = 0.05
_CODES: dict[type[TryLater], str] = {
    RateLimited: "rate_limit_exceeded",
    TooManyConcurrent: "concurrency_limit_exceeded",
    BudgetExhausted: "insufficient_quota",
}


@dataclass(slots=True)
class AdmissionProcess:
    """One server's admission; `calls` writes what has ended."""

    registry: Registry
    write: Callable[[Call, float], None]
    admission: Admission = field(default_factory=lambda: Admission(_CAPACITY, shared=True))
    leases: Leases = field(init=False)

    def __post_init__(self) -> None:
        self.leases = Leases(self.registry.leases, lambda: self.admission.accounts)

    async def run(self, tenants: Sequence[LimitedTenant], clients: int, until_s: float, seed: int) -> None:
        """Send until this moment of the monotonic clock."""
        membership = self.registry.membership
        await membership.beat()
        beside = [
            asyncio.create_task(self.registry.availability.run()),
            asyncio.create_task(_repeat(membership.beat, HEARTBEAT_S)),
            asyncio.create_task(_repeat(self._take_over, HEARTBEAT_S)),
            asyncio.create_task(_repeat(self.leases.report, REPORT_INTERVAL_S)),
        ]
        draws = [random.Random(f"{seed} {number}") for number in range(clients)]
        sending = [self._client(tenant, draw, until_s) for tenant in tenants for draw in draws]
        await asyncio.gather(*sending)
        for task in beside:
            task.cancel()
        await self.leases.aclose()
        await membership.leave()

    async def _take_over(self) -> None:
        await self.registry.leases.take_over()

    async def _client(self, tenant: LimitedTenant, draw: random.Random, until_s: float) -> None:
        settings = TenantSettings.model_validate(tenant.settings)
        while time.monotonic() < until_s:
            call, wait_s = await self._call(tenant, settings, draw)
            self.write(call, wait_s)
            if call.outcome != ANSWERED:
                await asyncio.sleep(_PAUSE_S * (0.5 + draw.random()))

    async def _call(
        self, tenant: LimitedTenant, settings: TenantSettings, draw: random.Random
    ) -> tuple[Call, float]:
        prompt, most = draw.randint(1, 8), draw.randint(*tenant.output_tokens)
        sent_s = time.monotonic()
        made: list[Reservation] = []

        async def attempt() -> None:
            made.append(self.admission.reserve(tenant.name, settings, prompt_tokens=prompt, max_tokens=most))

        outcome = ANSWERED
        try:
            await self.leases.admitted(attempt)
        except RegistryUnavailable:
            outcome = UNAVAILABLE
        except TryLater as error:
            outcome = _CODES[type(error)]
        entered_s = time.monotonic()
        call = Call(tenant.name, sent_s, entered_s, outcome, entered_s)
        if made:
            # The most is used where a client asks for it; the rate of tokens is the benchmark's, not an engine's.
            uses = await _generate(made[0], prompt, most)
            call = replace(call, ended_s=time.monotonic(), uses=uses, ran=(entered_s, uses[-1][0]))
        return call, entered_s - sent_s


async def _generate(reservation: Reservation, prompt: int, tokens: int) -> tuple[Use, ...]:
    """Use the tokens of one request as an engine would, some at a time."""
    uses: list[Use] = []
    try:
        for amount in (prompt, *[4] * (tokens // 4), tokens % 4):
            if amount:
                await asyncio.sleep(_TOKEN_S * amount if uses else 0)
                uses.append((time.monotonic(), amount))
                reservation.consume(amount)
    finally:
        reservation.release()
    return tuple(uses)


async def _repeat(work: Callable[[], Awaitable[None]], interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await work()
        except RegistryUnavailable:
            continue


def main(argv: Sequence[str]) -> int:
    """Run one process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_servers.admission_process")
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--tenants", required=True, help="JSON of the tenants")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args(argv)
    print(READY, flush=True)
    until_s = float(sys.stdin.readline())
    tenants = [LimitedTenant(**row) for row in json.loads(options.tenants)]

    def write(call: Call, wait_s: float) -> None:
        print(json.dumps({"call": asdict(call), "wait_s": wait_s}))

    async def run() -> None:
        engine = connect(options.database_url)
        process = AdmissionProcess(Registry(engine), write)
        await process.run(tenants, options.clients, until_s, options.seed)
        await engine.dispose()

    uvloop.run(run())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""Wrong keys are slowed per address, right ones never, and memory stays bounded."""

from __future__ import annotations

import asyncio
import itertools

import httpx
import pytest
from manual_clock import ManualClock
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from adapters.registry.replicas.wrong_keys import AddressFailures
from server.api.middleware import auth_throttle as slow_module
from server.api.middleware.auth_throttle import AuthThrottleMiddleware
from server.auth.throttle import (
    FIRST_DELAY_S,
    FREE_ATTEMPTS,
    MAX_ADDRESSES,
    MAX_DELAY_S,
    MAX_WAIT_S,
    AuthThrottle,
)


def test_the_first_failures_are_free_then_each_waits_longer() -> None:
    clock = ManualClock(100.0)
    throttle = AuthThrottle(clock)
    waits = []
    for _ in range(FREE_ATTEMPTS + 4):
        wait_s = throttle.fail("192.0.2.1")
        assert wait_s is not None
        waits.append(wait_s)
        clock.now_s += wait_s
    assert waits[:FREE_ATTEMPTS] == [0.0] * FREE_ATTEMPTS
    late = waits[FREE_ATTEMPTS:]
    assert late == sorted(late) and late[0] > 0 and late[-1] > 4 * late[0]
    assert throttle.failures == FREE_ATTEMPTS + 4


def test_parallel_tries_wait_in_line_and_then_are_refused() -> None:
    throttle = AuthThrottle(ManualClock(100.0))
    waits = [throttle.fail("192.0.2.1") for _ in range(200)]
    queued = [wait_s for wait_s in waits[FREE_ATTEMPTS:] if wait_s is not None]
    assert queued == sorted(queued) and max(queued) <= MAX_WAIT_S
    assert len(queued) < 20, "many connections are not many tries"
    assert waits[-1] is None


def test_addresses_do_not_touch_each_other_but_a_64_is_one() -> None:
    throttle = AuthThrottle(ManualClock(100.0))
    for i in range(50):
        throttle.fail(f"2001:db8::{i:x}")
    assert throttle.fail("2001:db8:0:0:ffff::1") != 0.0, "the same /64"
    assert throttle.fail("2001:db8:0:1::1") == 0.0
    assert throttle.fail("192.0.2.1") == 0.0
    assert throttle.fail("no address") == 0.0


def test_failures_are_forgiven() -> None:
    clock = ManualClock(100.0)
    throttle = AuthThrottle(clock)
    for _ in range(100):
        throttle.fail("192.0.2.1")
        clock.now_s += MAX_DELAY_S
    clock.now_s += 3600
    assert throttle.fail("192.0.2.1") == 0.0


def test_each_wait_is_twice_the_one_before_up_to_the_longest() -> None:
    attempts = AuthThrottle(ManualClock(100.0))
    sent_at = [attempts.fail("192.0.2.1") for _ in range(FREE_ATTEMPTS + 8)][FREE_ATTEMPTS - 1 :]
    waits = [after - before for before, after in itertools.pairwise(wait_s or 0.0 for wait_s in sent_at)]
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 4.0, 4.0, 4.0])


def test_an_ipv4_address_in_ipv6_is_the_same_client_and_its_neighbour_another() -> None:
    attempts = AuthThrottle(ManualClock(100.0))
    for _ in range(FREE_ATTEMPTS):
        attempts.fail("192.0.2.1")
    assert attempts.fail("::ffff:192.0.2.2") == 0.0
    assert attempts.fail("::ffff:192.0.2.1") != 0.0
    assert len(attempts._records) == 2


def test_who_failed_longest_ago_is_forgotten_first() -> None:
    attempts = AuthThrottle(ManualClock(100.0))
    for _ in range(FREE_ATTEMPTS):
        attempts.fail("192.0.2.1")
    for i in range(MAX_ADDRESSES - 1):
        attempts.fail(f"10.0.{i >> 8}.{i & 255}")
    assert attempts.fail("192.0.2.1") != 0.0, "still known, and now the last to be forgotten"
    for _ in range(FREE_ATTEMPTS):
        assert attempts.fail("192.0.2.2") == 0.0
    assert attempts.fail("192.0.2.2") != 0.0, "the newest is remembered"
    assert attempts.fail("192.0.2.1") != 0.0


def test_memory_is_bounded() -> None:
    throttle = AuthThrottle(ManualClock(100.0))
    for i in range(MAX_ADDRESSES + 500):
        throttle.fail(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}")
    assert len(throttle._records) == MAX_ADDRESSES


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    status = 200 if Request(scope).headers.get("authorization") == "Bearer right" else 401
    await JSONResponse({"status": status}, status_code=status)(scope, receive, send)


async def test_right_keys_never_wait_behind_wrong_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real_sleep(0)

    monkeypatch.setattr(slow_module.asyncio, "sleep", sleep)
    throttle = AuthThrottle(ManualClock(100.0))
    transport = httpx.ASGITransport(AuthThrottleMiddleware(app, throttle=throttle), client=("192.0.2.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        statuses = [(await client.get("/")).status_code for _ in range(60)]
        assert statuses[:FREE_ATTEMPTS] == [401] * FREE_ATTEMPTS and statuses[-1] == 429
        refused = await client.get("/")
        assert refused.json()["error"]["code"] == "too_many_failed_attempts"
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert slept and max(slept) <= MAX_WAIT_S
        waited = len(slept)
        right = await client.get("/", headers={"authorization": "Bearer right"})
        assert right.status_code == 200 and len(slept) == waited, "the same address, a right key: at once"


def test_failures_that_could_not_be_reported_are_told_with_the_later_ones() -> None:
    throttle = AuthThrottle(ManualClock(100.0))
    for _ in range(5):
        throttle.fail("192.0.2.1")
    taken = throttle.take_unreported(9)
    for _ in range(2):
        throttle.fail("192.0.2.1")
    throttle.put_back(taken)
    assert list(taken.values()) == [5] and list(throttle.take_unreported(9).values()) == [7]


def test_the_addresses_with_the_most_failures_are_told_first() -> None:
    throttle = AuthThrottle(ManualClock(100.0))
    for address, count in (("192.0.2.1", 9), ("192.0.2.2", 5)):
        for _ in range(count):
            throttle.fail(address)
    assert [throttle.take_unreported(1) for _ in range(2)] == [{"192.0.2.1": 9}, {"192.0.2.2": 5}]


def test_what_all_servers_counted_comes_on_top_of_what_is_not_reported_yet() -> None:
    throttle = AuthThrottle(ManualClock(100.0))
    for _ in range(3):
        throttle.fail("192.0.2.1")
    throttle.learn({"192.0.2.1": AddressFailures(FREE_ATTEMPTS, 1)})
    assert throttle.fail("192.0.2.1") == pytest.approx(FIRST_DELAY_S * 2**4)


def test_the_name_of_a_transport_without_addresses_has_no_null_character() -> None:
    throttle = AuthThrottle(ManualClock(100.0))
    for _ in range(3):
        throttle.fail("a\0b")
    assert throttle.take_unreported(9) == {"ab": 3}

"""A real PostgreSQL goes away under load: cached keys serve on, usage is written exactly once, the grace ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from postgres_process import PostgresProcess, TcpProxy, postgres_process, tcp_proxy
from server_process import ServerProcess, gone, start

GRACE_S = 12
MODELS = {"acme": "acme-support", "globex": "globex-tools"}


class Load:
    """Short requests of both tenants without end; counts statuses, and the tokens of answers."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.statuses: Counter[int] = Counter()
        self.answered: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.refusals: list[httpx.Response] = []
        self._threads = [threading.Thread(target=self._run, args=[tenant]) for tenant in MODELS]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def both_are_served(self) -> bool:
        """Whether both tenants have had answers: only then their keys and models are in use."""
        return all(self.answered[tenant] > 2 for tenant in MODELS)

    def forget(self) -> None:
        """Count statuses and times from here on."""
        with self._lock:
            self.statuses.clear()
            self.answered.clear()
            self.refusals.clear()
            self.slowest_s = 0.0

    def _run(self, tenant: str) -> None:
        with httpx.Client(base_url=self._url, headers=bearer(f"demo-{tenant}"), timeout=60) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                answer = ask(client, MODELS[tenant])
                self._count(tenant, answer, time.monotonic() - began)

    def _count(self, tenant: str, answer: httpx.Response, took_s: float) -> None:
        with self._lock:
            self.statuses[answer.status_code] += 1
            self.slowest_s = max(self.slowest_s, took_s)
            if answer.status_code == 200:
                self.answered[tenant] += 1
                self.tokens[tenant] += answer.json()["usage"]["total_tokens"]
            else:
                self.refusals.append(answer)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def ask(client: httpx.Client, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
    return client.post("/v1/chat/completions", json=body)


def metric(server: ServerProcess, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"loragate_{name} "))


def ready(server: ServerProcess) -> tuple[int, str]:
    answer = httpx.get(f"{server.url}/ready", timeout=10)
    return answer.status_code, answer.json().get("warning", "")


def wait_until(true: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def written(postgres: PostgresProcess) -> Counter[str]:
    rows = postgres.query(
        "loragate", "select tenant, sum(prompt_tokens + generated_tokens) from usage group by 1"
    )
    return Counter({tenant: int(tokens) for tenant, tokens in rows})


@contextmanager
def running(proxy: TcpProxy, folder: Path) -> Iterator[ServerProcess]:
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/loragate"
    flags = ["--demo", "--database-url", url, "--registry-grace-s", str(GRACE_S)]
    server = start(*flags, data_dir=folder)
    children = []
    try:
        server.wait_for("/ready", 200)
        children = server.children()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(10)
        assert gone(children, 60)


def check_within_the_grace(server: ServerProcess, load: Load) -> None:
    """What serves, and how what cannot be checked is refused; takes about a third of the grace."""
    load.forget()
    wait_until(lambda: bool(ready(server)[1]))
    status, warning = ready(server)
    assert status == 200 and "has not answered for" in warning and "served for another" in warning
    with httpx.Client(base_url=server.url, timeout=10) as client:
        began = time.monotonic()
        refusals: list[httpx.Response] = [
            client.get("/v1/models", headers=bearer("lg-a-key-that-nobody-has-used")),
            client.post("/v1/chat/completions", json={"model": "acme-new"}, headers=bearer("demo-acme")),
            client.get("/admin/v1/tenants", headers=bearer("demo-admin")),
        ]
        assert time.monotonic() - began < 3
    for refusal in refusals:
        assert refusal.status_code == 503, refusal.text
        assert refusal.json()["error"]["code"] == "registry_unavailable"
        assert 1 <= int(refusal.headers["retry-after"]) <= 120
    assert metric(server, "registry_away_seconds") > 0
    time.sleep(GRACE_S / 3)
    assert metric(server, "usage_waiting_rows") > 0
    assert set(load.statuses) == {200}, [
        (r.request.headers["authorization"], r.text) for r in load.refusals[:3]
    ]
    assert load.both_are_served()
    assert load.slowest_s < 8


def check_beyond_the_grace(server: ServerProcess, load: Load) -> None:
    wait_until(lambda: ready(server)[0] == 503)
    assert f"the grace of {GRACE_S} s is over" in ready(server)[1]
    load.forget()
    wait_until(lambda: load.statuses[503] > 3)
    refusal: Any = load.refusals[-1]
    assert f"the grace of {GRACE_S} s is over" in refusal.json()["error"]["message"]
    assert "retry-after" in refusal.headers
    assert httpx.get(f"{server.url}/health", timeout=10).status_code == 200


@pytest.mark.timeout(280)
def test_the_registry_is_away_under_load(tmp_path: Path) -> None:
    with postgres_process() as postgres, tcp_proxy(postgres) as proxy:
        postgres.create("loragate")
        outages = {
            "frozen": (postgres.freeze, postgres.thaw),
            "swallowed": (lambda: proxy.set("swallow"), lambda: proxy.set("forward")),
            "stopped": (postgres.stop, postgres.start),
        }
        with running(proxy, tmp_path) as server:
            with httpx.Client(base_url=server.url, headers=bearer("demo-admin"), timeout=30) as operator:
                assert operator.get("/admin/v1/tenants").status_code == 200
            with Load(server.url) as load:
                for leave, come_back in outages.values():
                    wait_until(load.both_are_served)
                    leave()
                    try:
                        check_within_the_grace(server, load)
                    finally:
                        come_back()
                    wait_until(lambda: ready(server) == (200, ""))
                    assert set(load.statuses) == {200}
                postgres.stop()
                check_beyond_the_grace(server, load)
                postgres.start()
                wait_until(lambda: ready(server) == (200, ""))
            time.sleep(2)  # the last answers are in the ledger after half a second
            assert metric(server, "usage_waiting_rows") == 0
            assert written(postgres) == load.tokens
            assert metric(server, "usage_lost_tokens_total") == 0
            assert metric(server, "registry_outage_seconds_total") > GRACE_S

            postgres.stop()
            with httpx.Client(base_url=server.url, headers=bearer("demo-acme"), timeout=30) as client:
                load.tokens["acme"] += ask(client, MODELS["acme"]).json()["usage"]["total_tokens"]
            time.sleep(3)
            os.kill(server.pid, signal.SIGKILL)
        assert written_after_restart(postgres, proxy, tmp_path) == load.tokens


def written_after_restart(postgres: PostgresProcess, proxy: TcpProxy, folder: Path) -> Counter[str]:
    spool = folder / "demo" / "usage"
    assert list(spool.glob("*.json"))
    before, done = proxy.unanswered, threading.Event()

    def start_late() -> None:
        wait_until(lambda: proxy.unanswered >= before + 3, timeout_s=120)
        postgres.start()
        done.wait()  # PostgreSQL ends with the thread that started it

    starting = threading.Thread(target=start_late)
    starting.start()
    with running(proxy, folder) as server:
        assert any("the start waits for another" in line for line in server.raw), server.tail()
        assert not list(spool.glob("*.json"))
    found = written(postgres)
    done.set()
    starting.join()
    return found

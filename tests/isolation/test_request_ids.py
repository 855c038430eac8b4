"""An X-Request-Id that two tenants share joins nothing: no answer, no abort, no header of the other's."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import uuid4

import httpx
import pytest
from server_process import ServerProcess

ASK = {"messages": [{"role": "user", "content": "Hello!"}], "temperature": 0}


def post(server: ServerProcess, key: str, shared: str, **body: object) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", "x-request-id": shared}
    return httpx.post(f"{server.url}/v1/chat/completions", json=ASK | body, headers=headers, timeout=60)


def text(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_two_at_once_get_each_its_own_answer(server: ServerProcess) -> None:
    asked = [("demo-acme", "acme-support"), ("demo-globex", "globex-tools")]
    alone = {key: text(post(server, key, uuid4().hex, model=m, max_tokens=40)) for key, m in asked}
    assert len(set(alone.values())) == 2
    shared = uuid4().hex
    with ThreadPoolExecutor(8) as pool:
        jobs = [(key, pool.submit(post, server, key, shared, model=m, max_tokens=40)) for key, m in asked * 4]
        for key, job in jobs:
            assert text(job.result()) == alone[key]
            assert job.result().headers["x-request-id"] == shared


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_disconnect_aborts_only_ones_own(server: ServerProcess, path: str) -> None:
    """globex breaks off again and again, under the id of an answer of acme's that runs all the while.

    Past its end token an answer says what it likes, so only its beginning is compared.
    """
    alone = text(post(server, "demo-acme", uuid4().hex, model="acme-support", max_tokens=60))
    shared, done = uuid4().hex, threading.Event()
    # Several prompts and several answers: vLLM waits for those in tasks of its own, and their ends are aborts by id.
    bodies: dict[str, dict[str, object]] = {
        "/v1/chat/completions": ASK | {"n": 3, "temperature": 1.0, "ignore_eos": True, "max_tokens": 300},
        "/v1/completions": {"prompt": ["A", "B", "C"], "ignore_eos": True, "max_tokens": 300},
    }
    headers = {"authorization": "Bearer demo-globex", "x-request-id": shared}

    def break_off() -> int:
        count = 0
        while not done.is_set():
            with suppress(httpx.TimeoutException):
                httpx.post(
                    server.url + path,
                    json=bodies[path] | {"model": "globex-tools"},
                    headers=headers,
                    timeout=httpx.Timeout(10, read=0.15),
                )
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        breaking = pool.submit(break_off)
        try:
            answer = post(server, "demo-acme", shared, model="acme-support", max_tokens=400, ignore_eos=True)
        finally:
            done.set()
        assert breaking.result() >= 2, "somebody must have broken off while it ran"
    assert text(answer).startswith(alone)
    assert answer.json()["usage"]["completion_tokens"] == 400


@pytest.mark.parametrize("hostile", ["a b", "x" * 200, "../../etc", "id,other"])
def test_an_id_that_could_do_harm_is_replaced(server: ServerProcess, hostile: str) -> None:
    answer = httpx.get(f"{server.url}/health", headers={"x-request-id": hostile}, timeout=30)
    assert answer.headers["x-request-id"] != hostile and len(answer.headers["x-request-id"]) == 32

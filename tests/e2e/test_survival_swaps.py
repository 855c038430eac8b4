"""Versions that come, go and change places on a running server, while the other tenant is answered throughout."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from server_process import ServerProcess
from survival import WEIGHTS, Admin, Bystander, admin_of, complete, pack, whole_adapter

ACME = "demo-acme"


@pytest.fixture(scope="module")
def bystander(server: ServerProcess) -> Iterator[Bystander]:
    with Bystander(server.url).asking() as asking:
        yield asking
    with admin_of(server.url) as admin:
        admin.clean_up()


@pytest.fixture
def admin(server: ServerProcess, bystander: Bystander) -> Iterator[Admin]:
    with admin_of(server.url) as admin:
        yield admin
    bystander.check()


def until_state(admin: Admin, name: str, version: int, state: str, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while admin.state(name, version) != state:
        assert time.monotonic() < deadline, admin.show(name)
        time.sleep(0.1)


def test_a_source_that_vanishes_or_changes_is_never_read_again(
    admin: Admin, server: ServerProcess, tmp_path: Path
) -> None:
    """Registered, evicted, asked for again: it answers from our own copy, whatever became of its source."""
    first, second = whole_adapter(tmp_path / "first", 1), whole_adapter(tmp_path / "second", 2)
    assert admin.add("source", first).status_code == 201
    assert admin.add("source", second).status_code == 201
    solo = [complete(server.url, ACME, f"acme-source@{number}") for number in (1, 2)]
    assert solo[0] != solo[1]
    shutil.rmtree(first)
    shutil.copy(whole_adapter(tmp_path / "third", 3) / WEIGHTS, second / WEIGHTS)
    for serving, resting in ((2, 1), (1, 2)):
        assert admin.promote("source", serving).status_code == 200
        until_state(admin, "source", resting, "ready")  # out of the engine, in the store
        assert complete(server.url, ACME, f"acme-source@{resting}") == solo[resting - 1]
    assert admin.remove("source").status_code == 200


def test_a_stored_copy_that_was_damaged_never_reaches_the_engine(
    admin: Admin, server: ServerProcess, tmp_path: Path
) -> None:
    """Only its own callers get an error, told not to retry; adding the same weights again mends it."""
    for seed in (31, 32):
        assert admin.add("rot", whole_adapter(tmp_path / str(seed), seed)).status_code == 201
    until_state(admin, "rot", 1, "ready")
    digest = next(v["digest"] for v in admin.show("rot")["versions"] if v["number"] == 1)
    weights = server.data_dir / "demo" / "adapters" / "sha256" / digest / WEIGHTS
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.truncate(1000)
    request = {"model": "acme-rot@1", "prompt": "x", "max_tokens": 4}
    headers = {"authorization": f"Bearer {ACME}"}
    answer = httpx.post(f"{server.url}/v1/completions", json=request, headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "adapter_unavailable")
    assert answer.headers["x-should-retry"] == "false" and str(server.data_dir) not in answer.text
    assert complete(server.url, ACME, "acme-rot")
    assert admin.promote("rot", 1).json()["error"]["code"] == "store_damaged"
    assert admin.add("rot", tmp_path / "31").status_code == 201, "the same weights: the same artifact, mended"
    assert complete(server.url, ACME, "acme-rot@1") == complete(server.url, ACME, "acme-rot@3")
    admin.remove("rot")


def test_the_same_name_with_other_weights_has_no_stale_prefix_cache(
    admin: Admin, server: ServerProcess, tmp_path: Path
) -> None:
    prompt = "The quick brown fox jumps over the lazy dog. " * 12  # several blocks of the prefix cache
    first, second = whole_adapter(tmp_path / "first", 4), whole_adapter(tmp_path / "second", 5)
    assert admin.add("oracle", second).status_code == 201
    expected = complete(server.url, ACME, "acme-oracle", prompt)
    assert admin.add("again", first).status_code == 201
    before = [complete(server.url, ACME, "acme-again", prompt) for _ in range(2)]
    assert admin.remove("again").status_code == 200
    assert admin.add("again", second).status_code == 201
    after = [complete(server.url, ACME, "acme-again", prompt) for _ in range(2)]
    assert before[0] == before[1] != expected
    assert after == [expected, expected]
    for name in ("oracle", "again"):
        admin.remove(name)


def test_of_racing_promotions_one_wins_and_the_rest_are_told_not_to_retry(
    admin: Admin, server: ServerProcess, tmp_path: Path
) -> None:
    for seed in (6, 7):
        assert admin.add("race", whole_adapter(tmp_path / str(seed), seed), promote=False).status_code == 201
    generation = admin.show("race")["alias"]["generation"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: admin.promote("race", 1 + n % 2, expected_generation=generation), range(8))
        )
    assert sorted(answer.status_code for answer in answers) == [200] + 7 * [409]
    for answer in answers:
        if answer.status_code == 409:
            assert answer.headers["x-should-retry"] == "false"
            assert answer.json()["error"]["code"] == "conflict"
    shown = admin.show("race")
    winner = next(a for a in answers if a.status_code == 200).json()
    assert len(winner.pop("proven_on")) == 1
    assert shown["alias"] == winner and winner["generation"] == generation + 1
    admin.remove("race")


async def stream_all(url: str, model: str, count: int, begun: asyncio.Event) -> list[str]:
    """So many streams at once; `begun` is set when all have their first token."""
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=ACME, max_retries=0, timeout=120)
    first = 0

    async def one() -> str:
        nonlocal first
        stream = await client.completions.create(
            model=model, prompt="Tell me about", max_tokens=200, temperature=0, stream=True,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        texts = []
        async for chunk in stream:
            if not texts:
                first += 1
                if first == count:
                    begun.set()
            texts.append(chunk.choices[0].text if chunk.choices else "")
        return "".join(texts)

    async with client:
        return list(await asyncio.gather(*(one() for _ in range(count))))


async def test_unloading_while_32_streams_run_lets_them_finish(
    admin: Admin, server: ServerProcess, tmp_path: Path
) -> None:
    assert admin.add("busy", whole_adapter(tmp_path, 8)).status_code == 201
    alone = complete(server.url, ACME, "acme-busy", max_tokens=200)
    begun = asyncio.Event()
    streams = asyncio.create_task(stream_all(server.url, "acme-busy", 32, begun))
    await asyncio.wait_for(begun.wait(), 60)
    removed = await asyncio.to_thread(admin.remove, "busy")
    assert streams.done() or not streams.cancelled()
    texts = await streams
    assert removed.status_code == 200
    assert texts == 32 * [alone], "every stream got the whole answer of its version"
    until_state(admin, "busy", 1, "retired")
    gone = httpx.post(
        f"{server.url}/v1/completions",
        json={"model": "acme-busy", "prompt": "x"},
        headers={"authorization": f"Bearer {ACME}"},
    )
    assert gone.status_code == 404


async def test_a_version_is_promoted_and_the_old_one_removed_under_streams(
    admin: Admin, server: ServerProcess, tmp_path: Path
) -> None:
    """Streams finish on the version they began with; what comes later gets the new one."""
    for seed in (9, 10):
        assert (
            admin.add("swap", whole_adapter(tmp_path / str(seed), seed), promote=seed == 9).status_code == 201
        )
    old, new = (complete(server.url, ACME, f"acme-swap@{n}", max_tokens=200) for n in (1, 2))
    begun = asyncio.Event()
    streams = asyncio.create_task(stream_all(server.url, "acme-swap", 8, begun))
    await asyncio.wait_for(begun.wait(), 60)
    assert (await asyncio.to_thread(admin.promote, "swap", 2)).status_code == 200
    assert await asyncio.to_thread(complete, server.url, ACME, "acme-swap", max_tokens=200) == new
    assert (await asyncio.to_thread(admin.remove, "swap", "acme", 1)).status_code == 200
    assert await streams == 8 * [old]
    until_state(admin, "swap", 1, "retired")
    admin.remove("swap")


def test_a_canary_is_sticky_per_user_and_per_session(
    admin: Admin, server: ServerProcess, tmp_path: Path
) -> None:
    for seed in (11, 12):
        assert admin.add("canary", whole_adapter(tmp_path / str(seed), seed)).status_code == 201
    texts = [complete(server.url, ACME, f"acme-canary@{number}") for number in (1, 2)]
    assert texts[0] != texts[1]
    body = {"weights": {"1": 1, "2": 1}}
    assert admin.http.post("/admin/v1/adapters/acme/canary/split", json=body).status_code == 200

    def served(user: str | None = None, session: str | None = None) -> int:
        request = {"model": "acme-canary", "prompt": "Tell me about", "max_tokens": 16, "temperature": 0}
        request |= {"ignore_eos": True} | ({"user": user} if user else {})
        headers = {"authorization": f"Bearer {ACME}"} | ({"x-session-id": session} if session else {})
        answer = httpx.post(f"{server.url}/v1/completions", json=request, headers=headers, timeout=60)
        return texts.index(answer.json()["choices"][0]["text"])

    by_user = {user: {served(user=user) for _ in range(3)} for user in map(str, range(12))}
    assert all(len(versions) == 1 for versions in by_user.values())
    assert set.union(*by_user.values()) == {0, 1}, "12 users, evenly split"
    by_session = {session: {served(session=session) for _ in range(3)} for session in map(str, range(12))}
    assert all(len(versions) == 1 for versions in by_session.values())
    back = admin.http.post("/admin/v1/adapters/acme/canary/rollback", json={})
    assert back.status_code == 200 and len(back.json()["targets"]) == 1
    admin.remove("canary")


def test_a_tenants_admin_manages_its_own_adapters_only(
    admin: Admin, server: ServerProcess, tmp_path: Path
) -> None:
    made = admin.http.post("/admin/v1/keys", json={"tenant": "acme", "role": "tenant_admin"})
    body = pack(whole_adapter(tmp_path, 13))
    with admin_of(server.url, made.json()["secret"]) as own:
        assert own.upload("mine", body).status_code == 201
        foreign = [
            own.upload("tools", body, tenant="globex"),
            own.promote("tools", 1, tenant="globex"),
            own.remove("tools", tenant="globex"),
            own.http.get("/admin/v1/adapters/globex/tools"),
            own.http.get("/admin/v1/adapters/missing/tools"),
        ]
        assert [answer.status_code for answer in foreign] == 5 * [404]
        assert own.add("mine", tmp_path).json()["error"]["code"] == "source_refused", (
            "no folders of the server"
        )
        bucket = own.http.post("/admin/v1/adapters/acme/mine/versions", json={"source": "s3://globex/tools"})
        assert bucket.json()["error"]["code"] == "source_refused", "nor its buckets"
        seen = own.http.get("/admin/v1/audit").json()["data"]
        assert seen and all("globex" not in f"{entry['subject']} {entry['details']}" for entry in seen)
        assert {row["tenant"] for row in own.http.get("/admin/v1/adapters").json()["data"]} == {"acme"}
        assert own.http.put("/admin/v1/adapters/acme/mine/versions/1/pin").status_code == 403
        assert own.remove("mine").status_code == 200
    admin.http.delete(f"/admin/v1/keys/{made.json()['id']}")
    audit = admin.http.get("/admin/v1/audit", params={"subject": "acme-mine"}).json()["data"]
    assert {entry["key_id"] for entry in audit if entry["action"] == "adapter.remove"} == {made.json()["id"]}

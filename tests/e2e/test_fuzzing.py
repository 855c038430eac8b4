"""schemathesis over the whole OpenAPI schema: no request makes a 5xx, a leak or a hang; answers are as described."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from server_process import ServerProcess

LEAKS = (
    "Traceback",
    "site-packages",
    "/root",
    "/tmp/",
    "/home/",
    '.py"',
    "sqlalchemy",
    "object at 0x",
    "demo-admin",
)
HANG_S = 30
#: 503 and 507 tell of a state; what may never be is an error that we did not foresee.
FAULTS = (500, 501, 502, 504)
OPERATOR = {"authorization": "Bearer demo-admin"}


@pytest.fixture(scope="module")
def keys(server: ServerProcess) -> Iterator[dict[str, str]]:
    """An inference key and an admin key of a tenant that may ask for little."""
    with httpx.Client(base_url=f"{server.url}/admin/v1", headers=OPERATOR, timeout=30) as admin:
        limits = {"limits": {"max_tokens": 4, "n": 2}, "max_concurrency": 4}
        admin.post("/tenants", json={"name": "fuzz", "settings": limits}).raise_for_status()
        secrets = {"none": ""}
        for role in ("inference", "tenant_admin"):
            issued = admin.post("/keys", json={"tenant": "fuzz", "role": role})
            secrets[role] = issued.raise_for_status().json()["secret"]
        yield secrets
        for view in admin.get("/adapters").json()["data"]:
            if view["tenant"] == "fuzz":
                admin.delete(f"/adapters/fuzz/{view['name']}")
        admin.delete("/tenants/fuzz")


def fuzz(server: ServerProcess, keys: Mapping[str, str], examples: int) -> dict[str, Counter[int]]:
    """Send `examples` valid and as many broken requests to each operation, each with all keys ("": none).

    Returns: how often each status came, by the name of the key.
    """
    told = httpx.get(f"{server.url}/openapi.json").json()
    del told["components"]["securitySchemes"]  # who asks is ours to say
    for operations in told["paths"].values():
        for operation in operations.values():
            operation.pop("security")
    schema = schemathesis.openapi.from_dict(told)
    statuses: dict[str, Counter[int]] = {who: Counter() for who in keys}
    sent = itertools.count(1)
    session = requests.Session()

    def send(case: Any) -> None:
        for who, key in keys.items():
            statuses[who][send_with(case, key)] += 1

    def send_with(case: Any, key: str) -> int:
        # an address of its own for each try: wrong keys are slowed per address
        number = next(sent)
        headers = {"x-forwarded-for": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        began = time.monotonic()
        response = case.call(base_url=server.url, headers=headers, session=session, timeout=HANG_S)
        took_s = time.monotonic() - began
        what = (
            f"{case.method} {case.path} {str(case.body)[:300]}: {response.status_code} {response.text[:300]}"
        )
        assert took_s < HANG_S, what
        assert response.status_code not in FAULTS, what
        assert response.status_code != 401 or not key, what
        assert not any(leak in response.text for leak in LEAKS), what
        if response.status_code < 300 and case.method != "HEAD":
            case.operation.validate_response(response)
        if response.status_code >= 400 and case.method != "HEAD":
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}, what
        return response.status_code

    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            strategy = operation.as_strategy(generation_mode=mode)
            if strategy.is_empty:
                continue
            run = settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=examples < 20,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )(given(strategy)(send))
            # what takes no parameters cannot be called wrongly
            with contextlib.suppress(*[Unsatisfiable] * (mode is GenerationMode.NEGATIVE)):
                run()
    return statuses


def test_no_request_makes_a_fault_a_leak_or_a_hang(server: ServerProcess, keys: dict[str, str]) -> None:
    statuses = fuzz(server, {who: keys[who] for who in ("none", "tenant_admin")}, examples=1)
    print(statuses)
    assert statuses["tenant_admin"] and httpx.get(f"{server.url}/health").status_code == 200
    assert 401 in statuses["none"]


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("who", ["none", "inference", "tenant_admin"])
def test_many_requests_make_no_fault_no_leak_and_no_hang(
    server: ServerProcess, keys: dict[str, str], who: str
) -> None:
    statuses = fuzz(server, {who: keys[who]}, examples=60)
    print(statuses)
    assert httpx.get(f"{server.url}/health").status_code == 200

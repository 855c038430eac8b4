"""A 404 says in its code what it has not found."""

from __future__ import annotations

from pathlib import Path

import demo
from tests.unit.server.app.composed import compose

ADAPTER = "/admin/v1/adapters/acme"
CASES = {
    ("GET", "/v1/models/acme-nothing"): "model_not_found",
    ("GET", "/v1/nothing"): "route_not_found",
    ("GET", "/admin/v1/tenants/nobody"): "tenant_not_found",
    ("GET", f"{ADAPTER}/nothing"): "adapter_not_found",
    ("PUT", f"{ADAPTER}/desk/versions/7/pin"): "version_not_found",
    ("DELETE", "/admin/v1/keys/k_0"): "key_not_found",
    ("POST", "/admin/v1/keys/k_0/rotate"): "key_not_found",
    ("GET", f"{ADAPTER}/desk/uploads/u_0"): "upload_not_found",
}


async def test_the_code_names_it_and_version_has_vllms_key(tmp_path: Path) -> None:
    async with compose(tmp_path) as composed:
        source = str(next(iter(demo.ADAPTERS.values())).path)
        await composed.make("POST", f"{ADAPTER}/desk/versions", json={"source": source})
        for (method, path), code in CASES.items():
            answer = await composed.ask(method, path, json={} if method == "POST" else None)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, code), (path, answer.text)
        batches = await composed.ask("GET", "/v1/messages/batches")
        assert batches.json()["error"]["type"] == "not_found_error"
        told = await composed.make("GET", "/version")
        assert told["version"] == told["vllm"] and told["version"][0].isdigit() and told["loragate"]

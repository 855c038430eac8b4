"""The admin API as benchmarks use it: create a tenant; upload, promote and remove the versions of one adapter."""

from __future__ import annotations

import asyncio
import io
import tarfile
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import httpx

from benchmarks.harness.errors import BenchmarkFailed

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_TIMEOUT_S = 300
_POLL_S = 0.1
#: The longest answer of an evaluation; the demo's expected ones are shorter.
_ANSWER_TOKENS = 64


class AdapterAdmin:
    """One adapter over the admin API. Methods raise httpx.HTTPStatusError if the server refuses the call."""

    def __init__(self, url: str, operator_key: str, tenant: str, adapter: str) -> None:
        self._path = f"/admin/v1/adapters/{tenant}/{adapter}"
        headers = {"authorization": f"Bearer {operator_key}"}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=_TIMEOUT_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def version(self) -> int:
        """The version that receives the traffic."""
        row = await self._call("GET", "")
        return int(row["alias"]["targets"][0]["version"])

    async def add(self, folder: Path) -> int:
        """Upload a version without promoting it; returns its number."""
        headers = {"content-type": "application/x-tar"}
        body = pack(folder)
        row = await self._call("POST", "/versions", params={"promote": False}, content=body, headers=headers)
        return int(row["number"])

    async def blend(self, *parts: tuple[str, int, float]) -> int:
        """Add a version that combines versions (adapter, number, scale), without promoting it; its number."""
        of = [{"adapter": adapter, "version": number, "scale": scale} for adapter, number, scale in parts]
        return int((await self._call("POST", "/blend", json={"of": of, "promote": False}))["number"])

    async def remove(self) -> None:
        """Remove the whole adapter."""
        await self._call("DELETE", "")

    async def promote(self, version: int) -> None:
        """Send all traffic to a version."""
        await self._call("POST", "/promote", json={"version": version})

    async def promote_if(self, version: int, condition: str) -> bool:
        """Send all traffic to a version if its figures meet a condition; False if they do not."""
        body = {"version": version, "if": condition}
        answer = await self._http.post(self._path + "/promote", json=body)
        if (
            answer.status_code == HTTPStatus.CONFLICT
            and answer.json()["error"]["code"] == "condition_not_met"
        ):
            return False
        answer.raise_for_status()
        return True

    async def evaluate(self, version: int, chats: bytes, *, turns: int) -> dict[str, Any]:
        """Evaluate a version on held-out chats; its figures. Raises: BenchmarkFailed: it did not finish."""
        found = await self._call(
            "POST",
            f"/versions/{version}/evaluations",
            params={"turns": turns, "max_tokens": _ANSWER_TOKENS},
            content=chats,
            headers={"content-type": "application/octet-stream"},
        )
        while found["state"] == "running":
            await asyncio.sleep(_POLL_S)
            found = await self._call("GET", f"/evaluations/{found['id']}")
        if found["state"] != "finished":
            raise BenchmarkFailed(
                f"The evaluation of version {version} has {found['state']}: {found['error']}"
            )
        return dict(found["figures"])

    async def restore(self, first: int, second: int) -> None:
        """Promote `first` and remove `second`, as it was before `second` was added."""
        await self.promote(first)
        await self._call("DELETE", f"/versions/{second}")

    async def _call(self, method: str, path: str, **request: Any) -> Any:
        answer = await self._http.request(method, self._path + path, **request)
        answer.raise_for_status()
        return answer.json()


async def create_tenant(
    http: httpx.AsyncClient, operator_key: str, name: str, *, role: str = "inference", **settings: Any
) -> str:
    """Create a tenant with these settings; returns a key of this role. Raises: httpx.HTTPStatusError."""
    headers = {"authorization": f"Bearer {operator_key}"}
    tenant = {"name": name, "settings": settings}
    (await http.post("/admin/v1/tenants", json=tenant, headers=headers)).raise_for_status()
    issued = await http.post("/admin/v1/keys", json={"tenant": name, "role": role}, headers=headers)
    return str(issued.raise_for_status().json()["secret"])


def pack(folder: Path) -> bytes:
    """The files of an adapter as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in _ADAPTER_FILES:
            tar.add(folder / name, arcname=name)
    return buffer.getvalue()

"""What the survival tests share: adapters whole and broken, the admin API, and a tenant that must not notice."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import load_file, save_file

from demo.random_adapter import write_random_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TAR = {"content-type": "application/x-tar"}
Tensors = dict[str, np.ndarray]


def change_config(folder: Path, **changes: Any) -> None:
    """Change entries of an adapter's configuration."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder: Path, change: Callable[[str, np.ndarray], tuple[str, np.ndarray]]) -> None:
    """Rewrite the weights, tensor by tensor."""
    tensors = dict(change(name, array) for name, array in load_file(folder / WEIGHTS).items())
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / WEIGHTS)


def pack(folder: Path) -> bytes:
    """All files of a folder as a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)
    return buffer.getvalue()


@dataclass
class Admin:
    """/admin/v1/adapters with one key."""

    http: httpx.Client

    def upload(
        self, name: str, body: bytes | Iterator[bytes], tenant: str = "acme", **params: Any
    ) -> httpx.Response:
        """Add a version from a tar."""
        path = f"/admin/v1/adapters/{tenant}/{name}/versions"
        return self.http.post(path, content=body, headers=TAR, params=params)

    def add(self, name: str, folder: Path, tenant: str = "acme", **body: Any) -> httpx.Response:
        """Add a version from a folder of the server's disk."""
        path = f"/admin/v1/adapters/{tenant}/{name}/versions"
        return self.http.post(path, json={"source": str(folder), **body})

    def promote(self, name: str, version: int, tenant: str = "acme", **body: Any) -> httpx.Response:
        """All traffic to one version."""
        path = f"/admin/v1/adapters/{tenant}/{name}/promote"
        return self.http.post(path, json={"version": version, **body})

    def remove(self, name: str, tenant: str = "acme", version: int | None = None) -> httpx.Response:
        """Take an adapter, or one version, out of service."""
        rest = "" if version is None else f"/versions/{version}"
        return self.http.delete(f"/admin/v1/adapters/{tenant}/{name}{rest}")

    def clean_up(self) -> None:
        """Remove acme's adapters but the demo's own: the server is other tests' too."""
        for row in self.http.get("/admin/v1/adapters").json()["data"]:
            if row["tenant"] == "acme" and row["name"] != "support":
                assert self.remove(row["name"]).status_code == 200, row

    def show(self, name: str, tenant: str = "acme") -> dict[str, Any]:
        """One adapter with its versions."""
        answer = self.http.get(f"/admin/v1/adapters/{tenant}/{name}")
        answer.raise_for_status()
        shown: dict[str, Any] = answer.json()
        return shown

    def state(self, name: str, version: int) -> str:
        """The state of one version."""
        return str(next(v for v in self.show(name)["versions"] if v["number"] == version)["state"])


@contextmanager
def admin_of(url: str, key: str = "demo-admin") -> Iterator[Admin]:
    """The admin API with a key."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=120) as http:
        yield Admin(http)


def complete(url: str, key: str, model: str, prompt: str = "Tell me about", **body: Any) -> str:
    """A greedy answer of a fixed length; raises where the server refuses."""
    request = {"model": model, "prompt": prompt, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.post(f"{url}/v1/completions", json=request | body, headers=headers, timeout=120)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["text"])


@dataclass
class Bystander:
    """Another tenant's client that asks the same again and again; every answer must be the one it had alone."""

    url: str
    key: str = "demo-globex"
    model: str = "globex-tools"
    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _answered: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def asking(self) -> Iterator[Bystander]:
        """Ask inside the block."""
        alone = complete(self.url, self.key, self.model)
        thread = threading.Thread(target=self._ask, args=[alone])
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def check(self) -> None:
        """It got at least one more whole answer that it asked for from now on, and never a wrong one."""
        with self._answered:
            wanted = self.answers + 2  # the next one may have been asked for before
            assert self._answered.wait_for(lambda: self.answers >= wanted or self.wrong, 30), "no answer"
        assert not self.wrong, self.wrong[:3]

    def _ask(self, alone: str) -> None:
        while not self._over.wait(0.05):
            try:
                answer = complete(self.url, self.key, self.model)
                wrong = None if answer == alone else f"{answer!r} is not {alone!r}"
            except httpx.HTTPError as error:
                wrong = repr(error)
            with self._answered:
                self.answers += 1
                if wrong:
                    self.wrong.append(wrong)
                self._answered.notify_all()


def whole_adapter(folder: Path, seed: int = 1, **options: Any) -> Path:
    """An adapter that can be served."""
    return write_random_adapter(folder, seed=seed, **options)

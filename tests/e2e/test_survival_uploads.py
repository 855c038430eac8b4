"""Adapters that cannot or must not be served, sent to a running server: each is refused with its reason, leaves
nothing behind, and the other tenant's answers go on unchanged."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from server_process import LORAGATE, ServerProcess
from survival import (
    WEIGHTS,
    Admin,
    Bystander,
    admin_of,
    change_config,
    change_tensors,
    complete,
    pack,
    whole_adapter,
)


@pytest.fixture(scope="module")
def bystander(server: ServerProcess) -> Iterator[Bystander]:
    with Bystander(server.url).asking() as asking:
        yield asking
    with admin_of(server.url) as admin:
        admin.clean_up()


@pytest.fixture
def admin(server: ServerProcess, bystander: Bystander) -> Iterator[Admin]:
    """The operator; when the test ends the other tenant is still answered, and nothing lies about."""
    with admin_of(server.url) as admin:
        yield admin
    bystander.check()
    assert not list((server.data_dir / "demo" / "adapters" / "staging").iterdir())


def rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: change_tensors(folder, lambda name, array: (name.replace(old, new), array))


def cut(folder: Path) -> None:
    """As if trained on a base of half the hidden size."""
    change_tensors(
        folder, lambda name, array: (name, array[..., : array.shape[1] // 2] if "_A" in name else array)
    )


def flat(folder: Path) -> None:
    change_tensors(folder, lambda name, array: (name, array.T if "q_proj.lora_A" in name else array))


def poison(value: float) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        def change(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
            if "layers.2.mlp.up_proj.lora_B" in name:
                array[3, 1] = value
            return name, array

        change_tensors(folder, change)

    return apply


def zero_b(folder: Path) -> None:
    change_tensors(folder, lambda name, array: (name, array * 0 if "lora_B" in name else array))


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) * 2 // 3])


def garbage(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(np.random.default_rng(0).bytes(50_000))


def pickle_only(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")


def other_base(folder: Path) -> None:
    (folder / "training.json").write_text(json.dumps({"base_digest": "0" * 64}))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "dora": (lambda f: change_config(f, use_dora=True), "DoRA"),
    "compiled prefix": (rename("base_model.model.", "base_model.model._orig_mod."), "torch.compile"),
    "fsdp prefix": (rename(".layers.", ".layers._fsdp_wrapped_module."), "FSDP"),
    "no model prefix": (rename("base_model.model.model.", "base_model.model."), "model.layers"),
    "smaller base": (cut, "trained on a smaller base"),
    "too many layers": (rename("layers.3.", "layers.9."), "layer"),
    "r unlike the tensors": (lambda f: change_config(f, r=16, lora_alpha=16), "16"),
    "alpha 0": (lambda f: change_config(f, lora_alpha=0), "alpha"),
    "all-zero B": (zero_b, "zero"),
    "truncated": (truncate, "truncated"),
    "garbage": (garbage, "safetensors"),
    "wrong shapes": (flat, "q_proj"),
    "another base": (other_base, "base model"),
    "NaN": (poison(float("nan")), "NaN"),
    "Inf": (poison(float("inf")), "infinity"),
    "pickle only": (pickle_only, "pickle"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_adapter_is_refused_with_its_reason(admin: Admin, tmp_path: Path, name: str) -> None:
    breaking, told = BROKEN[name]
    breaking(whole_adapter(tmp_path / "adapter"))
    for answer in (
        admin.upload("broken", pack(tmp_path / "adapter")),
        admin.add("broken", tmp_path / "adapter"),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "artifact_refused"), error
        assert told in error["message"] and str(tmp_path) not in error["message"]
    shown = admin.show("broken")
    assert shown["alias"]["targets"] == []
    assert shown["versions"][-1]["state"] == "failed" and told in shown["versions"][-1]["error"]


def test_a_rank_over_the_limit_names_the_flag(admin: Admin, tmp_path: Path) -> None:
    answer = admin.upload("wide", pack(whole_adapter(tmp_path, rank=64)))
    assert answer.status_code == 400
    assert (
        "Rank 64 is above --max-lora-rank 16; restart with --max-lora-rank 64"
        in answer.json()["error"]["message"]
    )


def test_a_missing_path(admin: Admin, tmp_path: Path) -> None:
    answer = admin.add("lost", tmp_path / "nowhere")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "source_unavailable")
    assert str(tmp_path) not in answer.text


def hostile(*, count: int = 1, name: str = "x", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(count):
            member = tarfile.TarInfo(name.format(number))
            member.type, member.linkname = kind, link
            tar.addfile(member)
    return buffer.getvalue()


def bomb() -> bytes:
    """Half a GB of zeros in half a MB."""
    packed, member = io.BytesIO(), tarfile.TarInfo("adapter_model.safetensors")
    member.size = 512 << 20
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6) as out:
        out.write(member.tobuf())
        zeros = bytes(1 << 20)
        for _ in range(512):
            out.write(zeros)
    return packed.getvalue()


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "10,000 files": (lambda: hostile(count=10_000, name="file{}"), "more than 1000 members"),
    "traversal": (lambda: hostile(name="../../escaped"), "outside"),
    "absolute": (lambda: hostile(name="/tmp/escaped"), "outside"),
    "symlink": (lambda: hostile(name=WEIGHTS, kind=tarfile.SYMTYPE, link="/etc/passwd"), "is a link"),
    "hard link": (lambda: hostile(name=WEIGHTS, kind=tarfile.LNKTYPE, link="/etc/passwd"), "is a link"),
    "device": (lambda: hostile(name=WEIGHTS, kind=tarfile.CHRTYPE), "neither a plain file"),
    "no tar": (lambda: b"PK\x03\x04" + bytes(5000), "not a whole tar"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused(admin: Admin, name: str) -> None:
    make, told = HOSTILE[name]
    answer = admin.upload("hostile", make())
    error = answer.json()["error"]
    assert answer.status_code == 400 and told in error["message"], error


def test_a_zip_bomb_is_noticed_before_it_is_unpacked(admin: Admin, server: ServerProcess) -> None:
    body = bomb()
    process = psutil.Process(server.pid)
    before_bytes = process.io_counters().write_bytes
    answer = admin.upload("hostile", body)
    assert answer.status_code == 400 and "expands to more than 100 times" in answer.json()["error"]["message"]
    assert process.io_counters().write_bytes - before_bytes < 256 << 20


def test_the_disk_is_full_while_an_adapter_is_fetched(
    admin: Admin, server: ServerProcess, tmp_path: Path
) -> None:
    """No mock: the kernel lets the server write no file beyond half of the adapter's size."""
    folder = whole_adapter(tmp_path / "adapter")
    (tmp_path / "huge").mkdir()
    (tmp_path / "huge" / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    (tmp_path / "huge" / WEIGHTS).write_bytes(bytes(48 << 20))
    process = psutil.Process(server.pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (24 << 20, before[1]))  # the registry is smaller
    try:
        answers = [admin.upload("full", pack(tmp_path / "huge")), admin.add("full", tmp_path / "huge")]
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "store_full"), answer.text
        assert answer.headers["x-should-retry"] == "false"
    again = admin.add("full", folder)
    assert again.status_code == 201, "with room it works"
    assert complete(server.url, "demo-acme", "acme-full")
    assert admin.remove("full").status_code == 200


def test_an_upload_in_pieces_goes_on_where_it_broke_off(
    admin: Admin, server: ServerProcess, tmp_path: Path
) -> None:
    body = pack(whole_adapter(tmp_path, 41))
    path = "/admin/v1/adapters/acme/pieces/uploads"
    begun = admin.http.post(path)
    assert begun.status_code == 201 and begun.json()["received_bytes"] == 0
    place = f"{path}/{begun.json()['id']}"

    def until_it_breaks() -> Iterator[bytes]:
        yield body[:70_000]
        yield body[70_000:100_000]
        time.sleep(0.5)  # they arrive
        raise ConnectionError("the cable was pulled")

    def piece(content: Any, offset: int) -> httpx.Response:
        headers = {"content-type": "application/octet-stream", "upload-offset": str(offset)}
        with admin_of(server.url) as own:
            return own.http.patch(place, content=content, headers=headers)

    with pytest.raises(ConnectionError):
        piece(until_it_breaks(), 0)
    received = admin.http.get(place).json()["received_bytes"]
    assert received == 100_000
    wrong = piece(body[50:], 50)
    assert wrong.status_code == 409 and str(received) in wrong.json()["error"]["message"]
    assert piece(body[received:], received).json()["received_bytes"] == len(body)
    source = f"upload:{begun.json()['id']}"
    foreign = admin.http.post("/admin/v1/adapters/globex/pieces/versions", json={"source": source})
    assert foreign.status_code == 404, "it is acme's"
    added = admin.http.post("/admin/v1/adapters/acme/pieces/versions", json={"source": source})
    assert added.status_code == 201, added.text
    assert complete(server.url, "demo-acme", "acme-pieces")
    assert admin.http.get(place).status_code == 404, "it is used up"
    admin.remove("pieces")


def test_how_far_a_fetch_is_shows_while_it_runs(admin: Admin, server: ServerProcess, tmp_path: Path) -> None:
    body = pack(whole_adapter(tmp_path, 43))
    on = threading.Event()

    def in_two() -> Iterator[bytes]:
        yield body[:50_000]
        assert on.wait(30)
        yield body[50_000:]

    def send() -> httpx.Response:
        with admin_of(server.url) as own:
            return own.upload("slow", in_two())

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        try:
            for _ in range(100):
                answer = admin.http.get("/admin/v1/adapters/acme/slow")
                version = answer.json()["versions"][0] if answer.status_code == 200 else {"fetching": None}
                if version["fetching"] and version["fetching"]["fetched_bytes"]:
                    break
                time.sleep(0.05)
        finally:
            on.set()
        assert version["state"] == "registered" and version["fetching"]["fetched_bytes"] == 50_000
        assert sending.result().status_code == 201
    done = admin.show("slow")["versions"][0]
    assert done["state"] == "resident" and done["fetching"] is None and done["slot"]["phase"] == "resident"
    admin.remove("slow")


def test_the_command_line_adds_shows_and_removes(admin: Admin, server: ServerProcess, tmp_path: Path) -> None:
    folder = whole_adapter(tmp_path, 42)

    def loragate(*words: str) -> str:
        command = [LORAGATE, "adapter", *words, "--url", server.url, "--key", "demo-admin"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    assert "added acme-shell@1 (rank 8)" in loragate("add", "acme", "shell", str(folder))
    shown = loragate("show", "acme", "shell")
    assert "resident" in shown and "upload" in shown
    assert "acme-shell" in loragate("list")
    assert "retired" in loragate("remove", "acme", "shell", "--yes")
    change_config(folder, use_dora=True)
    command = [
        LORAGATE,
        "adapter",
        "add",
        "acme",
        "shell",
        str(folder),
        "--url",
        server.url,
        "--key",
        "demo-admin",
    ]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 1 and "DoRA" in refused.stderr and "Traceback" not in refused.stderr


def test_an_upload_that_breaks_off_leaves_a_failed_version(
    admin: Admin, server: ServerProcess, tmp_path: Path
) -> None:
    body = pack(whole_adapter(tmp_path / "adapter"))

    def half() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        raise ConnectionError("the cable was pulled")

    with pytest.raises(ConnectionError), admin_of(server.url) as breaking:
        breaking.http.post(
            "/admin/v1/adapters/acme/cable/versions",
            content=half(),
            headers={"content-type": "application/x-tar"},
        )
    # The server may learn of the broken connection, and even of the request, after we are gone.
    deadline = time.monotonic() + 10
    states: set[str] = set()
    while states != {"failed"} and time.monotonic() < deadline:
        shown = admin.http.get("/admin/v1/adapters/acme/cable")
        states = {version["state"] for version in shown.json()["versions"]} if shown.is_success else set()
        time.sleep(0.05)
    assert states == {"failed"}

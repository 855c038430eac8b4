"""Uploads an adapter's files in pieces, so that a broken connection costs one piece only."""

from __future__ import annotations

import contextlib
import io
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import click
import httpx

from server.cli.adapters.admin_client import AdminClient, Refusal

_PIECE_BYTES = 8 << 20
_ATTEMPTS = 6
#: Another server still writes the rest of a broken piece (409), or a server, its database or its depot is away.
_PASSING = (409, 502, 503, 504)
_POLL_S = 0.5


def add_folder(client: AdminClient, adapter: str, folder: Path, options: Mapping[str, Any]) -> Any:
    """Upload a folder and add it as a version; returns the version.

    Args:
        client: the client of the server.
        adapter: the adapter's path below /admin/v1, `/adapters/TENANT/NAME`.
        folder: a PEFT folder; only its adapter files are sent.
        options: the other fields of the request that adds the version.

    Raises:
        click.ClickException: it is no adapter; the server refuses, or stays unreachable.
    """
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
            _pack(folder, tar)
        size_bytes = file.tell()
        upload_id = client.call("POST", f"{adapter}/uploads")["id"]
        _send(client, f"{adapter}/uploads/{upload_id}", file, size_bytes)
    return client.call("POST", f"{adapter}/versions", json={**options, "source": f"upload:{upload_id}"})


def _pack(folder: Path, tar: tarfile.TarFile) -> None:
    """Add the files that the server reads; not the optimizer's state and checkpoints.

    Raises: click.ClickException: it is no adapter.
    """
    from adapters.artifact.files import BESIDE, BESIDE_MAX_BYTES, WANTED, list_names, require_files
    from adapters.errors import ArtifactRefused

    names = list_names(folder)
    try:
        require_files(names)
    except ArtifactRefused as error:
        raise click.ClickException(str(error)) from error
    for name in sorted(WANTED & names):
        tar.add(folder / name, arcname=name)
    for name in sorted(BESIDE & names):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                beginning = file.read(BESIDE_MAX_BYTES)
            member = tarfile.TarInfo(name)
            member.size = len(beginning)
            tar.addfile(member, io.BytesIO(beginning))


def _send(client: AdminClient, path: str, file: BinaryIO, size_bytes: int) -> None:
    sent_bytes = failures = 0
    with click.progressbar(
        length=size_bytes, label="uploading", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        while sent_bytes < size_bytes:
            file.seek(sent_bytes)
            headers = {"upload-offset": str(sent_bytes), "content-type": "application/octet-stream"}
            try:
                answer = client.send("PATCH", path, content=file.read(_PIECE_BYTES), headers=headers)
                failures = 0
            except (httpx.TransportError, Refusal) as error:
                failures += 1
                _check_passing(error, failures)
                time.sleep(min(2.0**failures / 4, 8.0))
                answer = client.call("GET", path)
            bar.update(answer["received_bytes"] - sent_bytes)
            sent_bytes = answer["received_bytes"]


def _check_passing(error: Exception, failures: int) -> None:
    """Return if another try may succeed. Raises: click.ClickException."""
    if isinstance(error, Refusal):
        if error.status not in _PASSING or failures == _ATTEMPTS:
            raise error
    elif failures == _ATTEMPTS:
        raise click.ClickException(
            f"The connection broke {failures} times during the upload: {error}. Repeat the command."
        ) from error


@contextlib.contextmanager
def progress_shown(client: AdminClient, adapter: str) -> Iterator[None]:
    """On a terminal, show the progress of the server's own download while the block runs."""
    finished = threading.Event()

    def poll() -> None:
        while not finished.wait(_POLL_S):
            with contextlib.suppress(click.ClickException):
                for version in client.call("GET", adapter)["versions"]:
                    if fetching := version["fetching"]:
                        click.echo(f"\r{progress_text(fetching)}  ", nl=False, err=True)

    thread = threading.Thread(target=poll, daemon=True)
    if sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        finished.set()
        if thread.ident:
            thread.join()
            click.echo("\r", nl=False, err=True)


def progress_text(fetching: Mapping[str, int | None]) -> str:
    """`fetched 12.0 of 50.0 MB`."""
    done, total = fetching["fetched_bytes"] or 0, fetching["total_bytes"]
    return f"fetched {done / 1e6:.1f} of " + (f"{total / 1e6:.1f} MB" if total else "… MB")

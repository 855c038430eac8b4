"""The kinds of sources, and their notation."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import SourceRefused

_HUB = re.compile(
    r"hf://(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})(?:/(?P<folder>[\w./-]{1,200}))?(?:@(?P<revision>[\w./-]{1,200}))?",
    re.ASCII,
)
_BUCKET = re.compile(r"(?:s3|gs)://[a-z0-9][a-z0-9._-]{1,221}/\S.*")

Progress = Callable[[int, int | None], None]
"""Called with the bytes fetched so far and the total (None if unknown), from any thread."""


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A folder on the server's own disk."""

    path: Path

    @property
    def label(self) -> str:
        """The source's name in the registry."""
        return f"folder {self.path.name}"


@dataclass(frozen=True, slots=True)
class ArchiveSource:
    """A tar or tar.gz that arrives in chunks, such as the body of a request."""

    chunks: AsyncIterator[bytes]
    size_bytes: int | None = None  # as announced by the sender
    label: str = "upload"


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of the Hugging Face hub, or a folder of it, at a revision (branch, tag or commit)."""

    repo: str
    revision: str | None = None
    endpoint: str | None = None  # None: the hub's own
    own_token: bool = False  # send the server's own token (HF_TOKEN), if there is one
    folder: str | None = None  # None: the repository's topmost one

    @property
    def label(self) -> str:
        """The source's name in the registry."""
        return self.at(self.revision)

    def at(self, revision: str | None) -> str:
        """The source's name at another revision."""
        place = f"hf://{self.repo}" + (f"/{self.folder}" if self.folder else "")
        return place + (f"@{revision}" if revision else "")


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """A folder that fsspec can read: s3:// and gs://, with the credentials of the server's environment."""

    url: str

    @property
    def label(self) -> str:
        """The source's name in the registry."""
        return self.url


Source = LocalSource | ArchiveSource | HubSource | RemoteSource


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of a fetch."""

    label: str  # as exact as possible: for the hub, with the commit
    size_bytes: int
    combination: Mapping[str, Any] | None = None  # of a blend: its rank and its relative error


def parse_source(
    text: str,
    *,
    local_roots: Sequence[Path] | None = (),
    prefixes: Sequence[str] | None = None,
    own_token: bool = False,
) -> Source:
    """Read `hf://org/name/folder@revision`, `s3://bucket/path`, `gs://bucket/path` or a local path.

    Args:
        text: the source in its notation.
        local_roots: a local path must be below one of these; None allows every path (for operators only).
        prefixes: any other source must begin with one of these; None allows every source (likewise).
        own_token: whether the server's own token may be sent to the hub (likewise).

    Raises: SourceRefused.
    """
    scheme, divider, rest = text.partition("://")
    if not divider:
        return LocalSource(_check_root(Path(text), local_roots))
    if scheme == "file":
        return LocalSource(_check_root(Path(rest), local_roots))
    if prefixes is not None and not text.startswith(tuple(prefixes)):
        raise SourceRefused(
            "A tenant may not use this source; upload the adapter, or ask the operator to allow it "
            "with --tenant-sources."
        )
    if scheme == "hf":
        return _hub_source(text, own_token=own_token)
    if scheme in ("s3", "gs"):
        if _BUCKET.fullmatch(text) and "/../" not in text + "/":
            return RemoteSource(text.rstrip("/"))
        raise SourceRefused(f"A bucket source must have the form {scheme}://bucket/folder.")
    raise SourceRefused(
        f"Sources of kind {scheme[:20]!r} are not supported; use hf://, s3://, gs://, a local folder or an upload."
    )


def _hub_source(text: str, *, own_token: bool) -> HubSource:
    match = _HUB.fullmatch(text)
    if match is None or {"", ".", ".."} & set(text.partition("@")[0].removeprefix("hf://").split("/")):
        raise SourceRefused(
            "A hub source must have the form hf://organisation/name, with /folder and @revision where needed."
        )
    return HubSource(match["repo"], match["revision"], own_token=own_token, folder=match["folder"])


def _check_root(path: Path, roots: Sequence[Path] | None) -> Path:
    if not path.expanduser().is_absolute():
        raise SourceRefused(
            "A server folder must be given as an absolute path; otherwise upload the adapter."
        )
    resolved = path.expanduser().resolve()
    if roots is not None and not any(resolved.is_relative_to(root.resolve()) for root in roots):
        raise SourceRefused(
            "This folder may not be used as a source; upload the adapter, or ask the operator to add it."
        )
    return resolved

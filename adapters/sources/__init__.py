"""Sources of adapters: a local folder, an uploaded tar, the Hugging Face hub, s3://, gs://, or a blend of versions.

`fetch` copies only the files that make an adapter into a folder of the server, up to a limit of bytes.
`adapters.artifact` checks them afterwards.
"""

from __future__ import annotations

from adapters.sources.blend import BlendSource
from adapters.sources.fetching import fetch
from adapters.sources.models import (
    ArchiveSource,
    Fetched,
    HubSource,
    LocalSource,
    Progress,
    RemoteSource,
    Source,
    parse_source,
)
from adapters.sources.uploads import Upload, Uploads

__all__ = [
    "ArchiveSource",
    "BlendSource",
    "Fetched",
    "HubSource",
    "LocalSource",
    "Progress",
    "RemoteSource",
    "Source",
    "Upload",
    "Uploads",
    "fetch",
    "parse_source",
]

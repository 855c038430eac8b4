"""Where adapters come from: a local folder, an uploaded tar, the Hugging Face hub, s3:// or gs://.

`fetch` copies the few files that make an adapter into a folder of ours, under a cap on bytes, and nothing
else. Whether they can be served is `adapters.artifact`'s question.
"""

from __future__ import annotations

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

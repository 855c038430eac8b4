"""One fetch from start to end; blocking sources run in a thread that ends when the caller is cancelled."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from adapters.sources.archive import spool_archive, unpack_archive
from adapters.sources.hub import fetch_hub
from adapters.sources.local import fetch_local
from adapters.sources.meter import Meter
from adapters.sources.models import ArchiveSource, Fetched, HubSource, LocalSource, Progress, Source
from adapters.sources.remote import fetch_remote
from adapters.sources.threads import in_thread
from adapters.store.fsync import full_disk_told

#: Threads of their own: a source that hangs must not keep anything else of the server waiting.
_THREADS = ThreadPoolExecutor(16, thread_name_prefix="fetch")


async def fetch(source: Source, into: Path, *, max_bytes: int, progress: Progress | None = None) -> Fetched:
    """Copy the adapter's files into the empty folder `into`; at most `max_bytes` of them.

    On an error or cancellation the caller removes `into`; nothing writes to it any more by then.
    Raises: SourceRefused, SourceUnavailable, StoreFull; ArtifactRefused: it is no adapter, told before
        the weights are fetched.
    """
    meter = Meter(max_bytes, None if isinstance(source, ArchiveSource) else progress)
    beside = partial(in_thread, stop=meter.stop, executor=_THREADS)
    with full_disk_told():
        if isinstance(source, ArchiveSource):
            arriving = Meter(max_bytes, progress)
            arriving.expect(source.size_bytes)
            archive = await spool_archive(source.chunks, into, arriving)
            await beside(lambda: unpack_archive(archive, into, meter))
            label = source.label
        elif isinstance(source, LocalSource):
            label = await beside(lambda: fetch_local(source, into, meter))
        elif isinstance(source, HubSource):
            label = await beside(lambda: fetch_hub(source, into, meter))
        else:
            label = await beside(lambda: fetch_remote(source, into, meter))
    return Fetched(label, meter.seen_bytes)

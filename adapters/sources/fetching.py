"""Fetches a source; blocking sources run in a thread, which ends when the caller is cancelled."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from adapters.sources.archive import spool_archive, unpack_archive
from adapters.sources.blend import BlendSource, fetch_blend
from adapters.sources.byte_limit import ByteLimit
from adapters.sources.hub import fetch_hub
from adapters.sources.local import fetch_local
from adapters.sources.models import ArchiveSource, Fetched, HubSource, LocalSource, Progress, Source
from adapters.sources.remote import fetch_remote
from adapters.sources.threads import in_thread
from adapters.store.fsync import raising_store_full

#: Separate threads, so that a source that hangs does not block other parts of the server.
_THREADS = ThreadPoolExecutor(16, thread_name_prefix="fetch")
#: Blends take a processor and the memory of a module's factors, so only one is computed at a time.
BLENDING = ThreadPoolExecutor(1, thread_name_prefix="blend")


async def fetch(
    source: Source | BlendSource, into: Path, *, max_bytes: int, progress: Progress | None = None
) -> Fetched:
    """Copy the adapter's files into the empty folder `into`; at most `max_bytes` of them.

    After an error or cancellation nothing writes to `into` any more, and the caller removes it.
    Raises: SourceRefused, SourceUnavailable, StoreFull; ArtifactRefused: it is no adapter, found before the
        weights are fetched, or the limits allow no such blend.
    """
    limit = ByteLimit(max_bytes, None if isinstance(source, ArchiveSource) else progress)
    run_in_thread = partial(in_thread, stop=limit.stop, executor=_THREADS)
    with raising_store_full():
        if isinstance(source, BlendSource):
            blend, work = partial(in_thread, stop=limit.stop, executor=BLENDING), source
            facts = await blend(lambda: fetch_blend(work, into, limit))
            return Fetched(source.label, limit.seen_bytes, facts)
        if isinstance(source, ArchiveSource):
            arriving = ByteLimit(max_bytes, progress)
            arriving.expect(source.size_bytes)
            archive = await spool_archive(source.chunks, into, arriving)
            await run_in_thread(lambda: unpack_archive(archive, into, limit))
            label = source.label
        elif isinstance(source, LocalSource):
            label = await run_in_thread(lambda: fetch_local(source, into, limit))
        elif isinstance(source, HubSource):
            label = await run_in_thread(lambda: fetch_hub(source, into, limit))
        else:
            label = await run_in_thread(lambda: fetch_remote(source, into, limit))
    return Fetched(label, limit.seen_bytes)

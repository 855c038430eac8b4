"""What of the server's parts depends on whether other servers share the registry, and where their files are."""

from __future__ import annotations

from adapters.depot.depot import Depot
from adapters.depot.shared_uploads import SharedUploads
from adapters.registry import Registry
from adapters.sources import Uploads
from server.config.settings import Settings
from server.usage.recent_requests import RecentAnswers, RecentFailures
from server.usage.records.record_files import RecordFiles
from server.usage.records.recorder import Recorder
from server.usage.shared_answers import SharedAnswers
from server.usage.shared_failures import SharedFailures


def recent(registry: Registry) -> tuple[SharedFailures, SharedAnswers]:
    """Failures and answers: of this server, or of all servers that share the registry."""
    is_shared = registry.membership.is_shared
    failures = SharedFailures(RecentFailures(), registry.failures if is_shared else None)
    return failures, SharedAnswers(RecentAnswers(), registry.answers if is_shared else None)


def uploads_of(
    settings: Settings, registry: Registry, depot: Depot | None, max_bytes: int
) -> Uploads | SharedUploads:
    """Uploads in pieces: of this server, or of all servers that share registry and depot."""
    folder = settings.home / "uploads"
    if depot is None or not registry.membership.is_shared:
        return Uploads(folder, max_bytes)
    return SharedUploads(registry.uploads, depot, folder, max_bytes)


def recorder_of(settings: Settings) -> Recorder:
    """What keeps records, if the operator has named a place. Raises: SourceRefused: its package is missing."""
    if not settings.records:
        return Recorder(None)
    files = RecordFiles(
        settings.records,
        settings.home / "records",
        keep_days=settings.records_keep_days,
        max_bytes=settings.records_max_bytes,
    )
    return Recorder(files)

"""The errors of this package.

AdapterError
├── NotFound
│   ├── UnknownTenant
│   ├── UnknownKey
│   ├── UnknownAdapter
│   ├── UnknownVersion
│   └── UnknownUpload
├── BadName
├── NameTaken
├── Conflict
│   ├── AliasConflict
│   ├── IllegalTransition
│   ├── InUse
│   ├── NothingToRollBack
│   ├── PinLimit
│   └── UploadConflict
│       └── UploadBusy
├── BadValue
├── TooManyFetches
├── BlendLimit
├── ArtifactRefused
├── SourceRefused
├── SourceUnavailable
├── StoreFull
├── StoreDamaged
├── DepotUnavailable
├── RegistryUnavailable
│   └── RegistryUnusable
├── LoadFailed
│   └── EngineGone
├── ProbeFailed
├── ProofFailed
│   └── ProofTimedOut
├── ResidencyBusy
├── VersionRetired
└── SchemaMismatch

They know no HTTP. A message is a sentence with the value, the limit and the next step. Callers may see it, so it
contains no path of the server, no address and no traceback.
"""

from __future__ import annotations


class AdapterError(Exception):
    """Root of this package's errors; `str()` is the message for the caller."""


class NotFound(AdapterError):
    """Nothing has the requested name."""


class UnknownTenant(NotFound):
    """No tenant has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no tenant {name!r}; `loragate tenant list` shows all tenants.")


class UnknownKey(NotFound):
    """No valid key matches; the message does not say whether it is unknown, expired or revoked."""

    def __init__(self, key_id: str | None = None) -> None:
        which = "The key" if key_id is None else f"The key with the id {key_id[:64]!r}"
        super().__init__(
            f"{which} is unknown, has expired or was revoked; an operator sees all keys with `loragate key list`."
        )


class UnknownAdapter(NotFound):
    """The tenant has no adapter of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no adapter {name!r}; `loragate adapter list` shows all adapters.")


class UnknownVersion(NotFound):
    """The adapter has no version of this number."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(
            f"Adapter {name!r} has no version {number}; `loragate adapter show` lists its versions."
        )


class UnknownUpload(NotFound):
    """The tenant has no upload with this id."""

    def __init__(self) -> None:
        super().__init__(
            "There is no such upload: it was used, removed, left unfinished for a day, or begun on a server without "
            "--depot; begin a new one."
        )


class BadName(AdapterError):
    """A name breaks the rules of `adapters.names`."""


class NameTaken(AdapterError):
    """The name is already in use."""


class Conflict(AdapterError):
    """The change does not fit the present state; the same request will fail again."""


class AliasConflict(Conflict):
    """The alias has changed since it was read (compare-and-swap on its generation failed)."""

    def __init__(self, name: str, expected: int, found: int) -> None:
        changed = f"Alias {name!r} is at generation {found}, not {expected}: it was changed meanwhile"
        super().__init__(f"{changed}; read it again and repeat the change.")
        self.expected, self.found = expected, found


class IllegalTransition(Conflict):
    """A version cannot change from its present state to the requested one."""


class InUse(Conflict):
    """The object cannot be removed because something else still needs it."""


class NothingToRollBack(Conflict):
    """There is no earlier version to go back to."""


class PinLimit(Conflict):
    """Another pin would leave no slot for versions that are not pinned."""


class UploadConflict(Conflict):
    """A piece of an upload does not begin where the last one ended, or another piece is being written."""

    def __init__(self, offset_bytes: int, received_bytes: int) -> None:
        super().__init__(
            f"A piece at offset {offset_bytes} does not fit: {received_bytes} bytes have arrived so far; "
            "read the upload's offset and continue from there."
        )


class UploadBusy(UploadConflict):
    """Another request writes a piece of the upload, or adds a version from it."""

    def __init__(self) -> None:
        AdapterError.__init__(
            self,
            "Another request writes to this upload, or adds a version from it; when it has ended, read the upload's "
            "offset and continue from there.",
        )


class BadValue(AdapterError):
    """A setting of a tenant, key or alias is out of its range."""


class TooManyFetches(AdapterError):
    """A tenant adds more versions at the same time than it may, or has more unfinished uploads."""

    def __init__(self, message: str, *, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BlendLimit(AdapterError):
    """A tenant's requests ask for more new blends than it may have at the moment."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ArtifactRefused(AdapterError):
    """The adapter's files cannot be served; the message has what was found and what helps."""


class SourceRefused(AdapterError):
    """The source breaks a rule (size, links, path traversal, scheme); the same source will be refused again."""


class SourceUnavailable(AdapterError):
    """The source does not exist, or cannot be reached or read at the moment."""


class StoreFull(AdapterError):
    """The disk that holds the store or the database is full; no partial file is left."""


class StoreDamaged(AdapterError):
    """A stored artifact is missing or differs from its digest."""


class DepotUnavailable(AdapterError):
    """The shared place of the adapters' files does not answer."""


class RegistryUnavailable(AdapterError):
    """The database does not answer."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or "The registry's database does not answer; try again shortly.")
        self.retry_after_s = 5.0


class RegistryUnusable(RegistryUnavailable):
    """The database is damaged, read-only, or refuses the server's user; waiting does not help."""


class LoadFailed(AdapterError):
    """The engine refused the adapter. NOTE: its engine id may be partly registered; never use it again."""


class EngineGone(LoadFailed):
    """No engine runs that could load, unload or probe; the adapter itself is not the cause."""


class ProbeFailed(AdapterError):
    """The adapter was loaded, but its probe did not finish with finite numbers."""


class ProofFailed(AdapterError):
    """Another server (`--prove-on`) could not load or probe the version; nothing has changed."""


class ProofTimedOut(ProofFailed):
    """Another server lives and has not said in time whether it can serve the version; nothing has changed."""


class ResidencyBusy(AdapterError):
    """All slots stayed held for the longest time that a request may wait."""

    def __init__(self, capacity: int, waited_s: float, retry_after_s: float) -> None:
        busy = f"All {capacity} adapter slots stayed in use for {waited_s:g} s"
        super().__init__(f"{busy}; try again later, or restart with a larger --max-cpu-loras.")
        self.retry_after_s = retry_after_s


class VersionRetired(AdapterError):
    """The version is being retired or is retired; resolve the name again."""


class SchemaMismatch(AdapterError):
    """The database's schema is not the one of this release."""

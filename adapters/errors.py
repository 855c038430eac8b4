"""What can go wrong with an adapter, its registry and its residency.

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
├── BadValue
├── TooManyFetches
├── ArtifactRefused
├── SourceRefused
├── SourceUnavailable
├── StoreFull
├── StoreDamaged
├── RegistryUnavailable
├── LoadFailed
│   └── EngineGone
├── ProbeFailed
├── ResidencyBusy
├── VersionRetired
└── SchemaMismatch

They know no HTTP. A message is one sentence that names the value, the limit and the next step; it may be
shown to a caller, so it holds no path of the server, no address and no traceback.
"""

from __future__ import annotations


class AdapterError(Exception):
    """Root of this package's errors; `str()` is the sentence for the caller."""


class NotFound(AdapterError):
    """Something was asked for by a name that nothing has."""


class UnknownTenant(NotFound):
    """No tenant has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no tenant {name!r}; `loragate tenant list` shows those there are")


class UnknownKey(NotFound):
    """No valid key matches: it never existed, has expired or was revoked (which, is not told)."""

    def __init__(self) -> None:
        super().__init__("the key is not known, has expired or was revoked")


class UnknownAdapter(NotFound):
    """The tenant has no adapter of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no adapter {name!r}; `loragate adapter list` shows those there are")


class UnknownVersion(NotFound):
    """The adapter has no version of this number."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(
            f"adapter {name!r} has no version {number}; `loragate adapter show` lists its versions"
        )


class UnknownUpload(NotFound):
    """The tenant has no archive of this id on its way."""

    def __init__(self) -> None:
        super().__init__("there is no such upload; it was used, removed, or left alone for a day: begin anew")


class BadName(AdapterError):
    """A name breaks the rules of `adapters.names`."""


class NameTaken(AdapterError):
    """The name belongs to something else already."""


class Conflict(AdapterError):
    """The change does not fit the present state; asking again unchanged will not help."""


class AliasConflict(Conflict):
    """Somebody changed the alias in between (compare-and-swap on its generation failed)."""

    def __init__(self, name: str, expected: int, found: int) -> None:
        super().__init__(
            f"alias {name!r} is at generation {found}, not {expected}: it was changed in between; "
            "read it again and decide anew"
        )
        self.expected = expected
        self.found = found


class IllegalTransition(Conflict):
    """A version cannot go from its state to the one asked for."""


class InUse(Conflict):
    """Something else still needs what was to be removed."""


class NothingToRollBack(Conflict):
    """No earlier version is left to go back to."""


class PinLimit(Conflict):
    """One more pin would leave no slot for versions that are not pinned."""


class UploadConflict(Conflict):
    """A piece of an archive does not begin where the last one ended, or another one is on its way."""

    def __init__(self, offset_bytes: int, received_bytes: int) -> None:
        super().__init__(
            f"a piece at offset {offset_bytes} does not fit: {received_bytes} bytes have come so far; "
            "ask for the upload's offset and go on from there"
        )


class BadValue(AdapterError):
    """A setting of a tenant, key or alias is out of its range."""


class TooManyFetches(AdapterError):
    """A tenant adds more versions at once than it may."""

    def __init__(self, tenant: str, limit: int) -> None:
        super().__init__(
            f"tenant {tenant!r} is adding {limit} versions already, the most at once; "
            "try again when one of them has ended"
        )
        self.retry_after_s = 5.0


class ArtifactRefused(AdapterError):
    """The adapter's files cannot be served; the sentence tells what was found and what helps."""


class SourceRefused(AdapterError):
    """The source breaks a rule (size, links, traversal, scheme); trying again will not help."""


class SourceUnavailable(AdapterError):
    """The source cannot be reached or read at the moment, or does not exist."""


class StoreFull(AdapterError):
    """The disk under the store is full; nothing half-written was left behind."""


class StoreDamaged(AdapterError):
    """A stored artifact is missing or differs from its digest."""


class RegistryUnavailable(AdapterError):
    """The database does not answer."""

    def __init__(self) -> None:
        super().__init__("the registry's database does not answer; try again shortly")


class LoadFailed(AdapterError):
    """The engine refused the adapter. NOTE: its engine id may be half-registered; never use it again."""


class EngineGone(LoadFailed):
    """The engine is not there to load, unload or probe; nothing is wrong with the adapter."""


class ProbeFailed(AdapterError):
    """The adapter was loaded, but its probe did not finish with a finite answer."""


class ResidencyBusy(AdapterError):
    """Every slot stayed held for as long as this caller may wait."""

    def __init__(self, capacity: int, waited_s: float, retry_after_s: float) -> None:
        super().__init__(
            f"all {capacity} adapter slots stayed in use for {waited_s:g} s; "
            "try again later, or restart with a larger --max-cpu-loras"
        )
        self.retry_after_s = retry_after_s


class VersionRetired(AdapterError):
    """The version is being retired or is gone; resolve the name again."""


class SchemaMismatch(AdapterError):
    """The database's schema is not the one this program was written for."""

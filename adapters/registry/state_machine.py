"""The legal changes of a version's state.

registered -> fetched -> verified -> ready <-> resident -> draining -> retired
     \\___________\\___________\\_________\\_________________________> failed
"""

from __future__ import annotations

from adapters.errors import IllegalTransition
from adapters.models import Version, VersionState

TRANSITIONS: dict[VersionState, frozenset[VersionState]] = {
    VersionState.REGISTERED: frozenset({VersionState.FETCHED, VersionState.FAILED}),
    VersionState.FETCHED: frozenset({VersionState.VERIFIED, VersionState.FAILED}),
    VersionState.VERIFIED: frozenset({VersionState.READY, VersionState.FAILED}),
    # ready -> failed: the stored copy is damaged
    VersionState.READY: frozenset({VersionState.RESIDENT, VersionState.DRAINING, VersionState.FAILED}),
    VersionState.RESIDENT: frozenset({VersionState.READY, VersionState.DRAINING}),
    VersionState.DRAINING: frozenset({VersionState.RETIRED}),
    VersionState.RETIRED: frozenset(),
    VersionState.FAILED: frozenset(),
}

UNFINISHED = frozenset({VersionState.REGISTERED, VersionState.FETCHED, VersionState.VERIFIED})
ENDED = frozenset({VersionState.RETIRED, VersionState.FAILED})


def check_transition(name: str, old: VersionState, new: VersionState) -> None:
    """Raises: IllegalTransition: `new` does not follow `old`."""
    if new not in TRANSITIONS[old]:
        allowed = ", ".join(sorted(TRANSITIONS[old])) or "nothing"
        raise IllegalTransition(f"{name} is {old} and cannot become {new}; it can become {allowed}.")


def check_serves(version: Version) -> Version:
    """The version itself. Raises: IllegalTransition: it is not ready."""
    if version.state is not VersionState.READY:
        name = f"{version.public_name}@{version.number}"
        raise IllegalTransition(f"{name} is {version.state}, and only a ready version can serve.")
    return version

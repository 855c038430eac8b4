"""Which of an alias's versions a request goes to: by weight, and the same one for the same customer."""

from __future__ import annotations

import hashlib

from adapters.records import Alias


def choose_version(alias: Alias, sticky: str) -> int:
    """The version number for requests that share `sticky` (a user, a session, or a request's own id).

    The versions share the circle of hashes in order of their number, so raising the newest one's weight
    moves customers to it and none between the others' or back.
    """
    assert alias.targets, alias
    if len(alias.targets) == 1:
        return alias.targets[0].number
    digest = hashlib.sha256(f"{alias.tenant}/{alias.adapter}\0{sticky}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64 * sum(target.weight for target in alias.targets)
    for target in alias.targets:
        point -= target.weight
        if point < 0:
            return target.number
    return alias.targets[-1].number  # rounding

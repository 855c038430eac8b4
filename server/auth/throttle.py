"""Failed authentication: counted per client address, and answered with a growing delay.

Only the *answers to wrong keys* are delayed. A valid key from the same address (the same office or proxy) never
waits: no client can lock out another. Keys have 256 random bits, so their secrecy does not depend on the delay; it
limits how many key look-ups a broken or hostile client can cause.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

#: Wrong keys that are answered without delay; a client that was given a new key may still try the old one.
FREE_ATTEMPTS = 10
#: One failure is forgiven after each such interval.
FORGIVEN_AFTER_S = 3.0
FIRST_DELAY_S = 0.1
MAX_DELAY_S = 4.0
#: Answers to one address are sent one after the other, so more connections do not give more tries; beyond this wait
#: the answer is 429.
MAX_WAIT_S = 20.0
#: The addresses that are remembered; the one whose last failure is oldest is forgotten first.
MAX_ADDRESSES = 4096


@dataclass(slots=True)
class _AddressRecord:
    failures: float = 0.0
    failed_at: float = 0.0
    free_at: float = 0.0
    """When the next answer may be sent."""


class AuthThrottle:
    """Decides how long the answer to a wrong key is delayed. Memory is bounded by MAX_ADDRESSES."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: OrderedDict[str, _AddressRecord] = OrderedDict()
        self.failures = 0
        """Failed attempts since the start."""

    def fail(self, address: str) -> float | None:
        """Count one failure; returns the delay of its answer in seconds, or None for more than MAX_WAIT_S."""
        now = self._clock()
        self.failures += 1
        record = self._record(_network(address))
        forgiven = (now - record.failed_at) / FORGIVEN_AFTER_S
        record.failures = max(0.0, record.failures - forgiven) + 1
        record.failed_at = now
        excess = record.failures - FREE_ATTEMPTS
        if excess <= 0:
            return 0.0
        # The exponent is bounded, because `failures` is not.
        delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(excess, 16))
        free_at = max(now, record.free_at) + delay_s
        if free_at - now > MAX_WAIT_S:
            return None
        record.free_at = free_at
        return free_at - now

    def _record(self, network: str) -> _AddressRecord:
        record = self._records.setdefault(network, _AddressRecord())
        self._records.move_to_end(network)
        if len(self._records) > MAX_ADDRESSES:
            self._records.popitem(last=False)
        return record


def _network(address: str) -> str:
    """The IPv4 address, or the /64 of an IPv6 address, all of which usually belongs to one client."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 4:
        return str(parsed)
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((parsed, 64), strict=False))

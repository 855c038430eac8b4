"""Failed authentication: counted per client address, and answered with a growing delay.

Only the *answers to wrong keys* are delayed. A valid key from the same address (the same office or proxy) never
waits: no client can lock out another. Keys have 256 random bits, so their secrecy does not depend on the delay; it
limits how many key look-ups a broken or hostile client can cause. `shared_throttle` adds what other servers count.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from heapq import nlargest

from adapters.registry.replicas.wrong_keys import FORGIVEN_AFTER_S, MAX_FAILURES, AddressFailures

#: Wrong keys that are answered without delay; a client that was given a new key may still try the old one.
FREE_ATTEMPTS = 10
FIRST_DELAY_S = 0.1
MAX_DELAY_S = 4.0
#: Answers to one address are sent one after the other, so more connections do not give more tries; beyond this wait
#: the answer is 429.
MAX_WAIT_S = 20.0
#: So many wrong keys of an address that are not forgiven are not told to other servers: mistakes cost no write.
UNTOLD_FAILURES = 2
#: The addresses that are remembered; the one whose last failure is oldest is forgotten first.
MAX_ADDRESSES = 4096


@dataclass(slots=True)
class _AddressRecord:
    failures: float = 0.0
    failed_at: float = 0.0
    free_at: float = 0.0
    """When the next answer may be sent."""
    unreported: int = 0
    """Failures that the other servers do not know."""
    servers: int = 1
    """How many servers get wrong keys from here; each sends its answers so much more slowly."""


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
        record.failures = min(max(0.0, record.failures - forgiven) + 1, MAX_FAILURES)
        record.unreported += 1
        record.failed_at = now
        excess = record.failures - FREE_ATTEMPTS
        if excess <= 0:
            return 0.0
        delay_s = min(
            MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(excess, 16)
        )  # `failures` may be too large for a power
        delay_s = min(delay_s * record.servers, MAX_WAIT_S)
        free_at = max(now, record.free_at) + delay_s
        if free_at - now > MAX_WAIT_S:
            return None
        record.free_at = free_at
        return free_at - now

    def take_unreported(self, most: int) -> dict[str, int]:
        """The new failures of the addresses that have several, those with the most first; they count as reported."""
        told = {
            network: record.unreported
            for network, record in self._records.items()
            if record.unreported and record.failures > UNTOLD_FAILURES
        }
        taken = dict(nlargest(most, told.items(), key=lambda item: item[1]))
        for network in taken:
            self._records[network].unreported = 0
        return taken

    def put_back(self, counts: Mapping[str, int]) -> None:
        """Undo `take_unreported`: the report did not arrive."""
        for network, count in counts.items():
            if network in self._records:
                self._records[network].unreported += count

    def learn(self, found: Mapping[str, AddressFailures]) -> None:
        """Take over the failures that all servers counted, for these addresses."""
        now = self._clock()
        for network, counted in found.items():
            record = self._record(network)
            record.failures = min(counted.failures + record.unreported, MAX_FAILURES)
            record.failed_at = now
            record.servers = counted.servers

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
        return address.replace("\0", "")[:64]  # PostgreSQL takes no NUL
    if parsed.version == 4:
        return str(parsed)
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((parsed, 64), strict=False))

"""Gets and returns parts of the limits that several servers share, so that together they never exceed one.

A request takes its part of what this server holds, without waiting (`Admission.reserve`). If that does not suffice,
it asks the database here, and tries again. What was used is reported once a second; what was not used for a while is
given back. A server that cannot reach the database serves from what it holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from adapters.errors import RegistryUnavailable
from adapters.registry.outages.availability import PROBE_TIMEOUT_S
from adapters.registry.replicas.leases import Granted, LeaseKind, LeaseOrder
from server.admission.account import Account
from server.admission.errors import TryLater
from server.admission.lease_refusals import lease_refusal, lease_taken_by_others
from server.admission.leased_parts import LeasedParts, LeaseShort, limit_period, limits_by_kind

REPORT_INTERVAL_S = 1.0
#: What was not used for so long is given back.
IDLE_S = 5.0
#: A refusal is remembered at most so long: what other servers give back may be had before.
REFUSAL_S = 1.0
#: A request waits for a database that does not answer at most so long.
LEASE_TIMEOUT_S = PROBE_TIMEOUT_S
_ATTEMPTS = 8
Key = tuple[str, LeaseKind]


@dataclass(frozen=True, slots=True)
class _Refusal:
    until: float
    error: TryLater


class LeaseStore(Protocol):
    """The leases of all servers (`adapters.registry.replicas.leases`)."""

    @property
    def known_away(self) -> bool:
        """Whether the database is known not to answer."""

    async def exchange(self, sequence: int, orders: Sequence[LeaseOrder]) -> tuple[Granted, ...]:
        """Report and ask. Raises: RegistryUnavailable."""


class Leases:
    """The leases of this server.

    Args:
        store: the database.
        accounts: the accounts of all tenants and keys, with what this server holds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: LeaseStore,
        accounts: Callable[[], dict[str, Account]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._clock = clock
        self._wanted: dict[Key, int] = {}
        self._refused: dict[Key, _Refusal] = {}
        self._turn = asyncio.Lock()
        self._asking: set[asyncio.Task[None]] = set()
        self._sequence = 0
        self._unconfirmed: tuple[LeaseOrder, ...] = ()
        self.exchanges = 0
        """Calls of the database."""

    async def admitted(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Run `attempt` until what this server holds suffices for it.

        Raises:
            TryLater: all servers together have reached the limit.
            RegistryUnavailable: what is held does not suffice, and the database does not answer.
        """
        for _ in range(_ATTEMPTS):
            try:
                return await attempt()
            except LeaseShort as short:
                await self._get(short)
                last = short
        raise lease_taken_by_others(last, limits_by_kind(_parts(self._accounts()[last.tenant]).settings))

    async def report(self) -> None:
        """Report what was used, and give back what is idle. Raises: RegistryUnavailable: it waits."""
        async with self._turn:
            await self._exchange()

    async def aclose(self) -> None:
        """Report, and give everything back. Raises: RegistryUnavailable."""
        async with self._turn:
            await self._exchange(leaving=True)

    async def _get(self, short: LeaseShort) -> None:
        """Get what is missing. Raises: as `admitted`."""
        keys = {(short.tenant, kind): amount for kind, amount in short.missing.items()}
        asked_at = self._clock()
        self._raise_refusal(keys, asked_at)
        for key, amount in keys.items():
            self._wanted[key] = max(self._wanted.get(key, 0), amount)
        await self._asked_for(keys)
        self._raise_refusal(keys, asked_at)

    async def _asked_for(self, keys: Collection[Key]) -> None:
        """Wait until a call has asked for these. Raises: RegistryUnavailable.

        Who stops waiting does not end the call: others wait for it, too, and its connection would be lost.
        """
        if self._store.known_away:  # a call from before may still wait for it
            raise RegistryUnavailable
        asking = asyncio.create_task(self._ask_for(keys))
        self._asking.add(asking)
        asking.add_done_callback(self._forget)
        done, _ = await asyncio.wait({asking}, timeout=LEASE_TIMEOUT_S)
        if not done:
            raise RegistryUnavailable
        asking.result()

    async def _ask_for(self, keys: Collection[Key]) -> None:
        """Ask for these, if no call for another request has. Raises: RegistryUnavailable."""
        async with self._turn:
            if not self._wanted.keys().isdisjoint(keys):
                await self._exchange()

    def _forget(self, asking: asyncio.Task[None]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # seen, also where everybody who waited for it has left

    def _raise_refusal(self, keys: Iterable[Key], asked_at: float) -> None:
        """Raises: TryLater: one of these was refused since then, or so shortly before that it still holds."""
        for key in keys:
            refused = self._refused.get(key)
            if refused is not None and refused.until >= asked_at:
                raise refused.error

    async def _exchange(self, *, leaving: bool = False) -> None:
        """Send what was lost, then what there is now. Raises: RegistryUnavailable."""
        if self._unconfirmed:
            await self._send()
        orders = tuple(self._orders(leaving))
        if orders:
            self._sequence += 1
            self._unconfirmed = orders
            await self._send()

    async def _send(self) -> None:
        """Send the batch, again if need be: the database knows it by its number."""
        self.exchanges += 1
        answers = await self._store.exchange(self._sequence, self._unconfirmed)
        orders = {(order.tenant, order.kind): order for order in self._unconfirmed}
        self._unconfirmed = ()
        accounts = self._accounts()
        for answer in answers:
            key = (answer.tenant, answer.kind)
            parts = _parts(accounts[answer.tenant])
            parts.held[answer.kind] = parts.held.get(answer.kind, 0) + answer.granted
            parts.left[answer.kind] = answer.left
            if answer.granted < orders[key].need:
                until = self._clock() + min(answer.retry_s, REFUSAL_S)
                self._refused[key] = _Refusal(until, lease_refusal(orders[key], answer))

    def _orders(self, leaving: bool) -> list[LeaseOrder]:
        wanted, self._wanted = self._wanted, {}
        orders = []
        for tenant, account in self._accounts().items():
            parts, limits = _parts(account), limits_by_kind(_parts(account).settings)
            if not (limits or parts.held or parts.used):  # most keys have no limits
                continue
            for kind in LeaseKind:
                cap, need = limits.get(kind), wanted.get((tenant, kind), 0)
                used = parts.used.pop(kind, 0)
                back = self._surplus(account, kind, leaving or cap is None)
                if back:
                    parts.held[kind] -= back
                # Places are told each time: the database gives those of a server that it has not heard to others.
                running = kind is LeaseKind.SEQUENCES and cap is not None and account.sequences > 0
                if used or back or need or running:
                    period, want = limit_period(kind, parts.settings), (cap or 0) if need else 0
                    held = parts.held.get(kind, 0)
                    orders.append(LeaseOrder(tenant, kind, cap or 0, period, used, back, held, need, want))
        return orders

    def _surplus(self, account: Account, kind: LeaseKind, all_of_it: bool) -> int:
        """What is held and needed by no running request, where it has been idle."""
        parts = _parts(account)
        if not all_of_it and self._clock() - parts.used_at < IDLE_S:
            return 0
        running = {
            LeaseKind.SEQUENCES: account.sequences,
            LeaseKind.REQUESTS: 0,
            LeaseKind.TOKENS: account.reserved_tokens,
            LeaseKind.BUDGET: account.budget_reserved_tokens,
            LeaseKind.MONEY: account.reserved_nanos,
        }[kind]
        return max(0, parts.held.get(kind, 0) - running)


def _parts(account: Account) -> LeasedParts:
    assert account.leased is not None, "the registry is not shared"
    return account.leased

"""Whether the registry's database answers, and for how long data that was read before may still be used.

The registry's revision is read every PROBE_INTERVAL_S by `run`, and while there are requests, after each
REFRESH_AGE_S: early enough that none of them waits for it.
While the database does not answer, data of the last revision stays valid for the grace. The grace counts from the
last answer, not from the first failure, so it bounds how long a revoked key can work, also where only this server is
cut off.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from adapters.errors import RegistryUnavailable

T = TypeVar("T")

logger = logging.getLogger("loragate.registry")

#: While the database answers, a revoked key works at most this long after its revocation.
MAX_STALENESS_S = 0.5
#: A request that finds the revision this old has it read again, and does not wait for it: on a busy event loop, the
#: database's answer takes tens of its turns.
REFRESH_AGE_S = 0.2
#: The revision is read so often even without requests.
PROBE_INTERVAL_S = 1.0
#: A database that takes longer for the revision does not answer.
PROBE_TIMEOUT_S = 2.0


class Availability:
    """The registry's revision, and whether the database answers.

    Args:
        read_revision: one indexed query, also where the database is known to be away. Raises: RegistryUnavailable.
        grace_s: how long, in seconds after the database's last answer, data that was read before stays valid.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        read_revision: Callable[[], Coroutine[Any, Any, int]],
        *,
        grace_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_revision = read_revision
        self.grace_s = grace_s
        self._clock = clock
        self._revision = -1
        self._state = 0  # counts the changes of the revision that were seen
        self._answered_at = float("-inf")
        self._seen_at: dict[int, float] = {}  # state -> when it was last the present one
        self._away_since: float | None = None
        self._past_outages_s = 0.0
        self._watched = False
        self._probing: asyncio.Task[None] | None = None

    @property
    def known_away(self) -> bool:
        """Whether the last probe failed and `run` will notice the end of the outage."""
        return self._watched and self._away_since is not None

    @property
    def away_s(self) -> float:
        """Seconds since the database's last answer; 0 while it answers."""
        return 0.0 if self._away_since is None else self._clock() - self._away_since

    @property
    def outage_s(self) -> float:
        """Seconds without an answer, of all outages."""
        return self._past_outages_s + self.away_s

    @property
    def warning(self) -> str | None:
        """A sentence while the database does not answer, within the grace or beyond; else None."""
        if self._away_since is None:
            return None
        away_s, left_s = self.away_s, self.grace_s - self.away_s
        if left_s > 0:
            return (
                f"The registry's database has not answered for {away_s:.0f} s; keys and models that were in use are "
                f"served for another {left_s:.0f} s."
            )
        return f"The registry's database has not answered for {away_s:.0f} s; {self._beyond()}"

    async def state(self) -> int:
        """A number that changes with the registry: at most MAX_STALENESS_S old, or, in an outage, at most the grace.

        It is not the revision, which a restored backup takes back to numbers that other data had.
        Raises: RegistryUnavailable: the database has not answered for longer than the grace.
        """
        age_s = self._age_s()
        if age_s < MAX_STALENESS_S:
            if age_s >= REFRESH_AGE_S and not self.known_away:
                self._begin_probe()
            return self._state
        if not self.known_away:
            with suppress(RegistryUnavailable):
                await self._probe()
                return self._state
        if self._age_s() < self.grace_s:
            return self._state
        raise RegistryUnavailable(f"The registry's database does not answer; {self._beyond()}")

    def in_grace(self, state: int) -> bool:
        """Whether data of this state was valid within the grace."""
        return self._clock() - self._seen_at.get(state, float("-inf")) < self.grace_s

    async def run(self) -> None:
        """Probe the database until cancelled; meanwhile the registry does not wait for a database that is away."""
        self._watched = True
        try:
            while True:
                with suppress(RegistryUnavailable):
                    await self._probe()
                await asyncio.sleep(PROBE_INTERVAL_S)
        finally:
            self._watched = False

    async def _probe(self) -> None:
        """Read the revision, once for all that wait for it. Raises: RegistryUnavailable."""
        await asyncio.shield(self._begin_probe())

    def _begin_probe(self) -> asyncio.Task[None]:
        """The probe that runs, or a new one."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._read(), name="registry probe")
            self._probing.add_done_callback(_retrieve)
        return self._probing

    async def _read(self) -> None:
        asked_at = self._clock()
        try:
            revision = await wait_within(PROBE_TIMEOUT_S, self._read_revision())
        except RegistryUnavailable as error:
            self._failed(error)
            raise
        except SQLAlchemyError as error:  # it answers, but is being restored, or lacks our tables or rights
            self._failed(error)
            raise RegistryUnavailable from error
        self._answered(revision, asked_at)

    def _answered(self, revision: int, asked_at: float) -> None:
        if self._away_since is not None:
            logger.warning("The registry's database answers again after %.1f s.", self.away_s)
            self._past_outages_s += self.away_s
            self._away_since = None
        if revision != self._revision:
            self._state += 1
        self._revision, self._answered_at = revision, asked_at
        self._seen_at[self._state] = asked_at
        while (oldest := next(iter(self._seen_at))) != self._state and not self.in_grace(oldest):
            del self._seen_at[oldest]

    def _failed(self, error: BaseException) -> None:
        if self._away_since is None:
            never = self._answered_at == float("-inf")
            self._away_since = self._clock() if never else self._answered_at
            logger.error("%s", self.warning, extra={"cause": repr(error.__cause__ or error)})

    def _age_s(self) -> float:
        return self._clock() - self._answered_at

    def _beyond(self) -> str:
        return f"the grace of {self.grace_s:g} s is over, and no key can be checked. Try again shortly."


async def wait_within(timeout_s: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the database does not answer within the timeout.

    The caller does not wait for the end of a cancelled `work`: the connection of a database that does not answer
    takes seconds to close.

    Raises: RegistryUnavailable: the timeout is over; whatever `work` raises.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(_retrieve)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
    finally:
        task.cancel()  # does nothing to a task that is done
    if not done:
        raise RegistryUnavailable
    return task.result()


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Mark the result as seen: everybody who waited for it may be gone."""
    if not task.cancelled():
        task.exception()

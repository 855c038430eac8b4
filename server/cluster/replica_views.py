"""What a router knows of the replicas: their reports, corrected by what it has sent there since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from server.cluster.placement import load_bound, ranked

#: Where a replica tells it (`server.api.replica`).
PATH = "/internal/replica"
#: How many replicas a choice gives: after so many failures another attempt would not help.
MAX_CHOICES = 8


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What a replica tells about itself (`GET /internal/replica`).

    Attributes:
        in_flight: requests, of all routers.
        held: adapters in its memory, by their public names.
        computing: adapters of the requests in flight.
        slots: `--max-loras`.
        draining: it finishes what it has and takes no more.
        base: the public name of the base model, which needs no adapter.
        waiting: requests that wait for the engine.
        kv_use: share of the KV cache in use, 0 to 1.
        server: its id in the registry (`/admin/v1/servers`).
        url: where fronts reach it.
    """

    in_flight: int = 0
    held: frozenset[str] = frozenset()
    computing: frozenset[str] = frozenset()
    slots: int = 1
    draining: bool = False
    base: str = ""
    waiting: int = 0
    kv_use: float = 0.0
    server: str = ""
    url: str = ""


@dataclass(slots=True)
class TrackedReplica:
    """A replica as one router sees it; a `placement.ReplicaView`."""

    id: str
    slots: int = 1
    held: set[str] = field(default_factory=set)
    computing: set[str] = field(default_factory=set)
    draining: bool = False
    others: int = 0
    """Requests of other routers, as of the last report."""
    own: Counter[str | None] = field(default_factory=Counter)
    """This router's requests that have not ended, by adapter."""
    own_total: int = 0
    report: ReplicaReport = ReplicaReport()
    """The last one."""

    @property
    def in_flight(self) -> int:
        """Requests that it has begun or that wait there."""
        return self.own_total + self.others

    def update(self, report: ReplicaReport) -> None:
        """Take a new report over; what this router has sent there and what has not ended counts besides."""
        self.report = report
        mine = {adapter for adapter in self.own if adapter is not None}
        self.slots, self.draining = report.slots, report.draining
        self.held = mine | report.held
        self.computing = mine | report.computing
        self.others = max(0, report.in_flight - self.own_total)


class ReplicaViews:
    """The replicas as one router sees them."""

    def __init__(self) -> None:
        self._replicas: dict[str, TrackedReplica] = {}

    @property
    def replicas(self) -> Sequence[TrackedReplica]:
        """Those that are known, draining ones too."""
        return tuple(self._replicas.values())

    def get(self, name: str) -> TrackedReplica | None:
        """One of them."""
        return self._replicas.get(name)

    def update(self, reports: Mapping[str, ReplicaReport]) -> None:
        """Take over the reports of all replicas; one that is missing is gone."""
        for gone in self._replicas.keys() - reports.keys():
            del self._replicas[gone]
        for name, report in reports.items():
            self._replicas.setdefault(name, TrackedReplica(name)).update(report)

    def forget(self, name: str) -> None:
        """It is gone."""
        self._replicas.pop(name, None)

    def choose(
        self,
        adapter: str | None,
        session: str | None = None,
        exclude: Callable[[str], bool] = lambda _: False,
    ) -> Iterator[TrackedReplica]:
        """At most `MAX_CHOICES` replicas for a request, the best first.

        Args:
            adapter: what names the adapter and its version; None is the base model.
            session: what names requests with a common prompt.
            exclude: which replicas have failed for this request.
        """
        usable = [r for r in self._replicas.values() if not r.draining and not exclude(r.id)]
        if usable:
            bound = load_bound(usable)
            for replica, _ in zip(ranked(adapter, usable, bound, session), range(MAX_CHOICES), strict=False):
                yield replica

    @contextmanager
    def sent(self, replica: TrackedReplica, adapter: str | None) -> Iterator[None]:
        """While a request of this router is there."""
        self.begin(replica, adapter)
        try:
            yield
        finally:
            self.end(replica, adapter)

    @staticmethod
    def begin(replica: TrackedReplica, adapter: str | None) -> None:
        """A request is sent there."""
        replica.own[adapter] += 1
        replica.own_total += 1
        if adapter is not None:
            replica.held.add(adapter)
            replica.computing.add(adapter)

    @staticmethod
    def end(replica: TrackedReplica, adapter: str | None) -> None:
        """It has ended. Others may compute with its adapter: only the next report frees the slot."""
        replica.own_total -= 1
        replica.own[adapter] -= 1
        if replica.own[adapter] <= 0:
            del replica.own[adapter]

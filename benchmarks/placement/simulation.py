"""A discrete-event simulation of many replicas: requests come, adapters are fetched, loaded, used and forgotten.

The model of a replica: it holds `held` adapters, computes with `slots` of them and with `sequences` requests at once.
Requests begin in the order of their coming, but those whose adapter finds no slot are passed over. An adapter that is
not held is loaded, and before that fetched if this replica never had it; the least recently used one without requests
is forgotten for it. Routers choose by what replicas told them at the last report and by what they sent themselves.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.placement.policies import Policy, Request
from server.cluster.replica_views import ReplicaReport, ReplicaViews, TrackedReplica


@dataclass(frozen=True, slots=True)
class Setup:
    """What is simulated. Times are seconds."""

    replicas: int = 100
    adapters: int = 2_000
    zipf: float = 1.0
    """Exponent of the adapters' popularity."""
    slots: int = 8
    held: int = 32
    sequences: int = 32
    load: float = 0.7
    """Share of all sequences that are busy in the mean."""
    answer_s: float = 4.0
    """Mean of the exponential time of an answer."""
    load_s: float = 0.4
    fetch_s: float = 1.5
    routers: int = 4
    report_s: float = 0.5
    warm_up_s: float = 50.0
    end_s: float = 150.0
    seed: int = 1


@dataclass(slots=True)
class Figures:
    """Of the requests that came after the warm-up."""

    arrived: int = 0
    held: int = 0
    """Their adapter was in memory when they came."""
    fetched: int = 0
    waits_s: list[float] = field(default_factory=list)
    """From coming to beginning, of those that began."""

    @property
    def hit(self) -> float:
        """Share whose adapter was held."""
        return self.held / self.arrived

    @property
    def served(self) -> float:
        """Share that began before the end."""
        return len(self.waits_s) / self.arrived


@dataclass(slots=True)
class _Sent:
    request: Request
    came_s: float
    router: int
    view: TrackedReplica


class _Replica:
    def __init__(self, setup: Setup, name: str) -> None:
        self.setup, self.name = setup, name
        self.held: OrderedDict[str, None] = OrderedDict()
        self.loading: dict[str, list[_Sent]] = {}
        self.fetched: set[str] = set()
        self.running: Counter[str] = Counter()
        self.present: Counter[str] = Counter()  # running or waiting, by adapter
        self.queue: deque[_Sent] = deque()

    def report(self) -> ReplicaReport:
        here = frozenset(self.present)
        return ReplicaReport(
            in_flight=self.present.total(),
            held=frozenset(self.held) | self.loading.keys(),
            computing=here,
            slots=self.setup.slots,
        )

    def begin(self) -> list[_Sent]:
        """The requests that begin now."""
        begun, passed = [], deque[_Sent]()
        while self.queue and self.running.total() < self.setup.sequences:
            sent = self.queue.popleft()
            adapter = sent.request.adapter
            if adapter in self.running or len(self.running) < self.setup.slots:
                self.running[adapter] += 1
                begun.append(sent)
            else:
                passed.append(sent)
        self.queue = passed + self.queue
        return begun

    def end(self, adapter: str) -> None:
        for counts in (self.running, self.present):
            counts[adapter] -= 1
            if not counts[adapter]:
                del counts[adapter]

    def make_room(self) -> None:
        if len(self.held) + len(self.loading) >= self.setup.held:
            idle = next((adapter for adapter in self.held if adapter not in self.present), None)
            if idle is not None:
                del self.held[idle]


class Simulation:
    """One policy under one load.

    Args:
        setup: what is simulated.
        policy: makes the choice of one router from its views and a source of randomness.
    """

    def __init__(self, setup: Setup, policy: Policy) -> None:
        self.setup, self.policy, self.figures = setup, policy, Figures()
        self._random = random.Random(setup.seed)
        names = [f"replica-{number}" for number in range(setup.replicas)]
        self._replicas = {name: _Replica(setup, name) for name in names}
        self._routers = [ReplicaViews() for _ in range(setup.routers)]
        self._adapters = [f"adapter-{number}" for number in range(setup.adapters)]
        popularity = ((rank + 1) ** -setup.zipf for rank in range(setup.adapters))
        self._popularity = list(itertools.accumulate(popularity))
        self._rate = setup.load * setup.replicas * setup.sequences / setup.answer_s
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._now_s = 0.0

    def run(self) -> Figures:
        """Simulate until the end; the figures."""
        self._report()
        self._after(self._random.expovariate(self._rate), self._arrive)
        while self._events and self._events[0][0] <= self.setup.end_s:
            self._now_s, _, event = heapq.heappop(self._events)
            event()
        return self.figures

    def _after(self, delay_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now_s + delay_s, next(self._count), event))

    def _report(self) -> None:
        reports = {name: replica.report() for name, replica in self._replicas.items()}
        for router in self._routers:
            router.update(reports)
        self._after(self.setup.report_s, self._report)

    def _arrive(self) -> None:
        self._after(self._random.expovariate(self._rate), self._arrive)
        adapter = self._random.choices(self._adapters, cum_weights=self._popularity)[0]
        number = self._random.randrange(self.setup.routers)
        request = Request(adapter, self.setup.sequences)
        view = self.policy(request, self._routers[number], self._random)
        ReplicaViews.begin(view, adapter)
        self._receive(self._replicas[view.id], _Sent(request, self._now_s, number, view))

    def _receive(self, replica: _Replica, sent: _Sent) -> None:
        adapter, counted = sent.request.adapter, self._now_s > self.setup.warm_up_s
        self.figures.arrived += counted
        replica.present[adapter] += 1
        if adapter in replica.held:
            self.figures.held += counted
            replica.held.move_to_end(adapter)
            replica.queue.append(sent)
            self._begin(replica)
        elif adapter in replica.loading:
            replica.loading[adapter].append(sent)
        else:
            replica.make_room()
            fetch = adapter not in replica.fetched
            self.figures.fetched += counted and fetch
            replica.fetched.add(adapter)
            replica.loading[adapter] = [sent]
            delay_s = self.setup.load_s + fetch * self.setup.fetch_s
            self._after(delay_s, lambda: self._loaded(replica, adapter))

    def _loaded(self, replica: _Replica, adapter: str) -> None:
        replica.held[adapter] = None
        replica.queue += replica.loading.pop(adapter)
        self._begin(replica)

    def _begin(self, replica: _Replica) -> None:
        for sent in replica.begin():
            if sent.came_s > self.setup.warm_up_s:
                self.figures.waits_s.append(self._now_s - sent.came_s)
            duration_s = self._random.expovariate(1 / self.setup.answer_s)
            self._after(duration_s, lambda sent=sent: self._end(replica, sent))  # type: ignore[misc]

    def _end(self, replica: _Replica, sent: _Sent) -> None:
        replica.end(sent.request.adapter)
        ReplicaViews.end(sent.view, sent.request.adapter)
        self._begin(replica)

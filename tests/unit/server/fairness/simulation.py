"""A made-up engine around the arbiter: blocks, slots and steps as vLLM has them, and no vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.fairness.arbiter import Arbiter
from server.fairness.block_accounting import Lease
from server.fairness.lora_slots import AdapterSlots
from server.fairness.policy import Capacity, Policy
from server.fairness.preemption import victims_first
from server.fairness.waiting_queue import Entry


@dataclass(eq=False)
class Job:
    """A request: so many prompt tokens, so many to generate, and how far it has come."""

    name: str
    prompt: int
    generate: int
    computed: int = 0
    generated: int = 0
    service: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt + self.generated


@dataclass
class SimEngine:
    """Each step computes whole prompts and one token per running job."""

    capacity: Capacity
    max_loras: int | None = None
    step_s: float = 0.02
    now_s: float = 0.0
    jobs: dict[str, Job] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    preemptions: list[str] = field(default_factory=list)
    service: dict[str, float] = field(default_factory=dict)
    first_started_step: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    ran_out: bool = False

    def __post_init__(self) -> None:
        slots = AdapterSlots(self.max_loras, 2.0) if self.max_loras else None
        self.arbiter = Arbiter(self.capacity, self, slots, clock=lambda: self.now_s)
        self.pool = list(range(self.capacity.kv_blocks))

    def add(self, tenant: str, policy: Policy, prompt: int, generate: int, adapter: int = 0) -> str:
        name = f"{tenant}-{len(self.jobs)}"
        self.jobs[name] = Job(name, prompt, generate)
        self.entries[name] = Entry(name, tenant, policy.share, adapter, len(self.jobs), self.jobs[name])
        self.arbiter.arrive(self.entries[name])
        return name

    # What the arbiter asks

    def free_blocks(self) -> int:
        return len(self.pool)

    def free_slots(self) -> int:
        return self.capacity.max_num_seqs - len(self.running())

    def full_blocks(self, item: Job) -> int:
        return self.capacity.blocks_for(item.tokens)

    new_blocks = full_blocks

    def growth(self, lease: Lease) -> int:
        return self.capacity.blocks_for(self.jobs[lease.request_id].tokens) - len(lease.block_ids)

    def is_ready(self, item: Job) -> bool:
        return True

    def generated_tokens(self, item: Job) -> int:
        return item.generated

    def preempt(self, request_id: str) -> None:
        self.preemptions.append(request_id)
        self._free(request_id)
        self.arbiter.put_back(self.entries[request_id])

    # The step

    def running(self) -> list[Lease]:
        return list(self.arbiter.holdings.leases())

    def step(self) -> list[str]:
        """One whole step; returns what started."""
        started = self.schedule()
        self.compute()
        return started

    def schedule(self) -> list[str]:
        """What runs takes its blocks and others start, as vLLM does it: nobody starts after a preemption of
        its own. Returns what started."""
        self.steps += 1
        self.now_s += self.step_s
        self.arbiter.begin_step()
        self.ran_out = not self._grow()
        started = [] if self.ran_out else self._start()
        self.arbiter.end_step(tokens_left=1)
        return started

    def compute(self) -> None:
        """A token for each that runs."""
        for lease in self.running():
            self._compute(lease)

    def _grow(self) -> bool:
        victims = victims_first(self.arbiter.holdings)
        ran_out = False
        for name in victims[::-1]:
            while (lease := self.arbiter.holdings.lease(name)) and self.growth(lease) > len(self.pool):
                self.preempt(victims.pop(0))
                ran_out = True
            if lease is not None:
                self.arbiter.holdings.extend(lease, [self.pool.pop() for _ in range(self.growth(lease))])
        return not ran_out

    def _start(self) -> list[str]:
        started = []
        while self.free_slots() > 0 and (entry := self.arbiter.next()) is not None:
            blocks = self.full_blocks(entry.item)
            if blocks > len(self.pool):
                break
            self.arbiter.hold(entry, [self.pool.pop() for _ in range(blocks)], blocks)
            self.arbiter.take(entry)
            self.arbiter.bills.charge_prompt(entry, entry.item.prompt, 0)
            self.first_started_step.setdefault(entry.request_id, self.steps)
            started.append(entry.request_id)
        return started

    def _compute(self, lease: Lease) -> None:
        job = self.jobs[lease.request_id]
        before = job.service
        job.generated += 1
        job.service = job.prompt + 2 * job.generated
        self.service[lease.tenant] = self.service.get(lease.tenant, 0.0) + job.service - before
        if job.generated >= job.generate:
            self._free(job.name)
            self.finished.append(job.name)

    def _free(self, request_id: str) -> None:
        lease = self.arbiter.holdings.lease(request_id)
        assert lease is not None
        self.pool += lease.block_ids
        self.arbiter.release(request_id)

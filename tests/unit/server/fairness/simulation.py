"""A made-up engine around the arbiter: blocks, slots and steps as vLLM has them, and no vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field

from adapters.tenant_settings import TenantSettings
from server.fairness.arbiter import Arbiter
from server.fairness.kv_blocks.allocations import Allocation
from server.fairness.kv_blocks.preemption import preemption_order
from server.fairness.lora_slots import LoraSlots
from server.fairness.shares import Capacity, read_stamp, stamp
from server.fairness.waiting_queue import Entry

MAX_STEPS = 20_000


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
        slots = LoraSlots(self.max_loras, 2.0) if self.max_loras else None
        self.arbiter = Arbiter(self.capacity, self, slots, clock=lambda: self.now_s)
        self.pool = list(range(self.capacity.kv_blocks))

    def add(
        self,
        tenant: str,
        policy: TenantSettings,
        prompt: int,
        generate: int,
        adapter: int = 0,
        *,
        background: bool = False,
    ) -> str:
        name = f"{tenant}-{len(self.jobs)}"
        self.jobs[name] = Job(name, prompt, generate)
        known_as, share = read_stamp(stamp(tenant, policy, background=background))
        self.entries[name] = Entry(name, known_as, share, adapter, len(self.jobs), self.jobs[name])
        self.arbiter.enqueue(self.entries[name])
        return name

    # What the arbiter asks

    def free_blocks(self) -> int:
        return len(self.pool)

    def free_slots(self) -> int:
        return self.capacity.max_num_seqs - len(self.running())

    def full_blocks(self, item: Job) -> int:
        return self.capacity.blocks_for(item.tokens)

    new_blocks = full_blocks

    def growth(self, allocation: Allocation) -> int:
        return self.capacity.blocks_for(self.jobs[allocation.request_id].tokens) - len(allocation.block_ids)

    def is_ready(self, item: Job) -> bool:
        return True

    def generated_tokens(self, item: Job) -> int:
        return item.generated

    def preempt(self, request_id: str) -> None:
        self.preemptions.append(request_id)
        self._free(request_id)
        self.arbiter.requeue(self.entries[request_id])

    # The step

    def running(self) -> list[Allocation]:
        return list(self.arbiter.accounting.allocations())

    def step(self) -> list[str]:
        """One complete step; returns the requests that started."""
        started = self.schedule()
        self.compute()
        return started

    def schedule(self) -> list[str]:
        """Running requests take their blocks and others start; as in vLLM, none starts in a step in which blocks
        ran out. Returns the requests that started."""
        self.steps += 1
        assert self.steps < MAX_STEPS, "every request is served"
        self.now_s += self.step_s
        self.arbiter.begin_step()
        self.ran_out = not self._grow()
        started = [] if self.ran_out else self._start()
        self.arbiter.end_step(tokens_left=1)
        return started

    def compute(self) -> None:
        """A token for each that runs."""
        for allocation in self.running():
            self._compute(allocation)

    def _grow(self) -> bool:
        victims = preemption_order(self.arbiter.accounting)
        ran_out = False
        for name in victims[::-1]:
            while (held := self.arbiter.accounting.allocation(name)) and self.growth(held) > len(self.pool):
                self.preempt(victims.pop(0))
                ran_out = True
            if held is not None:
                self.arbiter.accounting.extend(held, [self.pool.pop() for _ in range(self.growth(held))])
        return not ran_out

    def _start(self) -> list[str]:
        started = []
        while self.free_slots() > 0 and (entry := self.arbiter.next()) is not None:
            blocks = self.full_blocks(entry.item)
            if blocks > len(self.pool):
                break
            self.arbiter.start(entry, [self.pool.pop() for _ in range(blocks)], blocks)
            self.arbiter.dequeue(entry)
            self.arbiter.charges.charge_prompt(entry, entry.item.prompt, 0)
            self.first_started_step.setdefault(entry.request_id, self.steps)
            started.append(entry.request_id)
        return started

    def _compute(self, allocation: Allocation) -> None:
        job = self.jobs[allocation.request_id]
        before = job.service
        job.generated += 1
        job.service = job.prompt + 2 * job.generated
        self.service[allocation.tenant] = self.service.get(allocation.tenant, 0.0) + job.service - before
        if job.generated >= job.generate:
            self._free(job.name)
            self.finished.append(job.name)

    def _free(self, request_id: str) -> None:
        allocation = self.arbiter.accounting.allocation(request_id)
        assert allocation is not None
        self.pool += allocation.block_ids
        self.arbiter.stop(request_id)
        assert self.arbiter.accounting.allocation(request_id) is None

"""Candidates: the waiting requests that could start in this step, and how each stands against its tenant's budget."""

from __future__ import annotations

from collections.abc import Iterator

from server.fairness.interfaces import BudgetStanding, EngineInterface
from server.fairness.kv_blocks.block_accounting import BlockAccounting
from server.fairness.lora_slots import LoraSlots
from server.fairness.row_shares import RowShares
from server.fairness.waiting_queue import Entry, WaitingQueue


class Candidates:
    """The candidates of the present step; the arguments are the arbiter's own parts."""

    def __init__(
        self,
        queue: WaitingQueue,
        accounting: BlockAccounting,
        engine: EngineInterface,
        lora_slots: LoraSlots | None,
    ) -> None:
        self._queue = queue
        self._accounting = accounting
        self._engine = engine
        self._lora_slots = lora_slots
        self.row_shares = RowShares(queue, accounting)
        #: What was preempted in this step: a request starts again in the next step at the earliest, and a tenant
        #: that lost one to a limit or a guarantee starts nothing in this step.
        self.preempted_requests: set[str] = set()
        self.preempted_tenants: set[str] = set()
        self._exact_blocks: dict[str, int] = {}  # results of `new_blocks`, valid until blocks are freed
        self._firsts: dict[str, tuple[Entry, BudgetStanding] | None] = {}  # results of `first`

    def begin_step(self) -> None:
        """Forget the last step."""
        self.row_shares.begin_step()
        self.preempted_requests.clear()
        self.preempted_tenants.clear()
        self.note_freed()

    def note_freed(self) -> None:
        """Blocks, a sequence slot or a LoRA slot were freed."""
        self._exact_blocks.clear()
        self._firsts.clear()

    def note_changed(self, tenant: str) -> None:
        """A request of the tenant has joined or left the queue, or has started."""
        self._firsts.pop(tenant, None)

    def note_slots_full(self) -> None:
        """The last free LoRA slot was taken: requests whose adapter has none must wait."""
        self._firsts.clear()

    def first(self, tenant: str) -> tuple[Entry, BudgetStanding] | None:
        """The tenant's `head` and how it stands, remembered until something of it changes.

        NOTE: it is asked for each waiting tenant whenever a request starts.
        """
        if tenant not in self._firsts:
            head = self.head(tenant)
            self._firsts[tenant] = None if head is None else (head, self.standing(head))
        return self._firsts[tenant]

    def head(self, tenant: str) -> Entry | None:
        """The tenant's request that would start next."""
        return next(self.of(tenant), None)

    def of(self, tenant: str) -> Iterator[Entry]:
        """The tenant's requests that could start now, in order of arrival."""
        if tenant in self.preempted_tenants or self.row_shares.is_full(tenant):
            return iter(())
        return filter(self._is_ready, self._queue.in_order(tenant, self._may_start))

    def is_ready(self, entry: Entry) -> bool:
        """Whether the request could start if it had room and a LoRA slot."""
        return not self.row_shares.is_full(entry.tenant) and self._is_ready(entry)

    def was_passed_over(self, entry: Entry) -> bool:
        """Whether the request still waits although it is its tenant's first and within the guarantee."""
        return (
            self._queue.has(entry)
            and self.head(entry.tenant) is entry
            and self.standing(entry) is BudgetStanding.GUARANTEED
        )

    def standing(self, entry: Entry) -> BudgetStanding:
        """How the request stands; a background one never has a guarantee."""
        standing = self._budget_standing(entry)
        if entry.share.background and standing is not BudgetStanding.OVER_LIMIT:
            return BudgetStanding.BACKGROUND
        return standing

    def have_slots(self, entries: list[Entry]) -> bool:
        """Whether the requests' adapters have LoRA slots, or may take them, all in one step."""
        if self._lora_slots is None:
            return True
        return self._lora_slots.can_start_all({entry.adapter for entry in entries})

    def _is_ready(self, entry: Entry) -> bool:
        return entry.request_id not in self.preempted_requests and self._engine.is_ready(entry.item)

    def _budget_standing(self, entry: Entry) -> BudgetStanding:
        """The standing by the cheap bounds of its blocks where they agree, else by their exact number."""
        share = self._accounting.of(entry.tenant).share
        if share.guarantee <= 0 and share.limit >= 1:
            return BudgetStanding.BORROWING
        at_worst = self._standing_with(entry, self._engine.full_blocks(entry.item))
        if at_worst is BudgetStanding.BORROWING and not self._accounting.fits_guarantee(entry.tenant, 1):
            return at_worst
        if at_worst is BudgetStanding.GUARANTEED or at_worst is self._standing_with(entry, 1):
            return at_worst
        if entry.request_id not in self._exact_blocks:
            self._exact_blocks[entry.request_id] = self._engine.new_blocks(entry.item)
        return self._standing_with(entry, self._exact_blocks[entry.request_id])

    def _standing_with(self, entry: Entry, blocks: int) -> BudgetStanding:
        if self._accounting.fits_guarantee(entry.tenant, blocks):
            return BudgetStanding.GUARANTEED
        fits_limit = self._accounting.fits_limit(entry.tenant, entry.share, blocks)
        return BudgetStanding.BORROWING if fits_limit else BudgetStanding.OVER_LIMIT

    def _may_start(self, adapter: int) -> bool:
        return self._lora_slots is None or self._lora_slots.can_start(adapter)

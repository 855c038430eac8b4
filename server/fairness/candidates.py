"""Candidates: the waiting requests that could start in this step, and how each stands against its tenant's budget."""

from __future__ import annotations

from collections.abc import Iterator

from server.fairness.block_accounting import BlockAccounting
from server.fairness.interfaces import BudgetStanding, EngineInterface
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
        self.exact_blocks: dict[str, int] = {}  # results of `new_blocks`, valid until blocks are freed

    def begin_step(self) -> None:
        """Forget the last step."""
        self.row_shares.begin_step()
        self.preempted_requests.clear()
        self.preempted_tenants.clear()
        self.exact_blocks.clear()

    def head(self, tenant: str) -> Entry | None:
        """The tenant's request that would start next."""
        return next(self.of(tenant), None)

    def of(self, tenant: str) -> Iterator[Entry]:
        """The tenant's requests that could start now, in order of arrival."""
        if tenant in self.preempted_tenants or self.row_shares.is_full(tenant):
            return iter(())
        return filter(self.is_ready, self._queue.in_order(tenant, self._may_start))

    def is_ready(self, entry: Entry) -> bool:
        """Whether the request could start if it had room and a LoRA slot."""
        if entry.request_id in self.preempted_requests or self.row_shares.is_full(entry.tenant):
            return False
        return self._engine.is_ready(entry.item)

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

    def _budget_standing(self, entry: Entry) -> BudgetStanding:
        """The standing by the cheap bounds of its blocks where they agree, else by their exact number."""
        at_worst = self._standing_with(entry, self._engine.full_blocks(entry.item))
        if at_worst is BudgetStanding.BORROWING and not self._accounting.fits_guarantee(entry.tenant, 1):
            return at_worst
        if at_worst is BudgetStanding.GUARANTEED or at_worst is self._standing_with(entry, 1):
            return at_worst
        if entry.request_id not in self.exact_blocks:
            self.exact_blocks[entry.request_id] = self._engine.new_blocks(entry.item)
        return self._standing_with(entry, self.exact_blocks[entry.request_id])

    def _standing_with(self, entry: Entry, blocks: int) -> BudgetStanding:
        if self._accounting.fits_guarantee(entry.tenant, blocks):
            return BudgetStanding.GUARANTEED
        fits_limit = self._accounting.fits_limit(entry.tenant, entry.share, blocks)
        return BudgetStanding.BORROWING if fits_limit else BudgetStanding.OVER_LIMIT

    def _may_start(self, adapter: int) -> bool:
        return self._lora_slots is None or self._lora_slots.can_start(adapter)

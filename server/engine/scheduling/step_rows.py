"""Holds back sequences of a tenant that would make a step too long for the others (`server.fairness.row_shares`).

A sequence that is held back keeps its blocks and its place, and its tenant's sequences take turns.
Leans on (vLLM 0.32): Scheduler.current_step, which `schedule` counts, and Request.next_decode_eligible_step, before
which `schedule` passes over a running request; GPUModelRunner takes it out of its batch and keeps its state.
"""

from __future__ import annotations

from typing import Any, Final

from vllm.v1.core.sched.output import SchedulerOutput

from server.fairness.arbiter import Arbiter

#: Steps after which a tenant's next sequences take their turn: each change of the batch costs the workers time.
_TURN_STEPS: Final = 8


class StepRows:
    """The sequences of the next step, and how long the last ones took."""

    def __init__(self, scheduler: Any, arbiter: Arbiter) -> None:
        self._scheduler = scheduler
        self._accounting = arbiter.accounting
        self._shares = arbiter.row_shares
        self._noted_s: float | None = None  # when the last step ended, if another one followed at once

    def begin_step(self) -> None:
        """Hold back what is too much in the step that vLLM schedules next."""
        for tenant, cap in self._shares.caps.items():
            ids = list(self._accounting.of(tenant).allocations)
            if len(ids) <= cap:
                continue
            first = self._scheduler.current_step // _TURN_STEPS * cap % len(ids)
            turn = (ids[first:] + ids[:first])[cap:]
            for request_id in turn:
                request = self._scheduler.requests[request_id]
                # `schedule` counts the step before it compares.
                request.next_decode_eligible_step = self._scheduler.current_step + 2

    def note_step(self, output: SchedulerOutput) -> None:
        """The step was computed; one with prompt tokens says nothing of sequences.

        Steps that follow each other are timed from end to end, which holds for steps that overlap, too.
        """
        now_s, began_s = self._accounting.now_s(), self._noted_s
        self._noted_s = now_s if self._scheduler.running else None
        rows = len(output.num_scheduled_tokens)
        drafts = sum(map(len, output.scheduled_spec_decode_tokens.values()))
        is_decoding = output.total_num_scheduled_tokens == rows + drafts and not output.scheduled_new_reqs
        if rows and is_decoding and began_s is not None:
            self._shares.times.note(rows, now_s - began_s, now_s)

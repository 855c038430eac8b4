"""Runs the model in EngineCore itself, where OpenMP is set up already: no worker process and no messages to one.

vLLM runs a CPU model in a separate worker process only because OpenMP reads its environment when it is loaded. Our
EngineCore is forked from a process that has loaded OpenMP with the right one (`server.engine.process.fork_server`).

Leans on (vLLM 0.32): v1.executor.uniproc_executor.UniProcExecutor, v1.executor.abstract.Executor.get_class (takes
a dotted name), platforms.cpu (which turns the backend "uni" into "mp", but no other name).
"""

from __future__ import annotations

import os
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from server.engine.process.fork_server import first_core


class InPlaceExecutor(UniProcExecutor):
    """`UniProcExecutor` whose thread is bound to the first of OpenMP's cores."""

    _is_bound = False

    def execute_model(self, scheduler_output: SchedulerOutput, non_block: bool = False) -> Any:
        """Run one step; the first one binds this thread."""
        if not self._is_bound:
            self._bind()
        return super().execute_model(scheduler_output, non_block)

    def _bind(self) -> None:
        """Bind this thread as OpenMP has bound its own.

        NOTE: not before the first step: EngineCore starts its socket threads after the executor, and they would
        inherit the binding.
        """
        self._is_bound = True
        core = first_core()
        if core is not None:
            os.sched_setaffinity(0, {core})

"""A progress bar on stderr: stdout's last line belongs to the figures."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.harness.client import Sample
from benchmarks.harness.load_generator import Watch

_TICK_S = 0.25


class Bars:
    """One bar per run, while it lasts; `quiet` shows none."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)

    def say(self, text: str) -> None:
        """One line above the bars."""
        self.console.print(text, highlight=False)

    @contextlib.asynccontextmanager
    async def run(self, title: str, seconds: float, requests: int | None = None) -> AsyncIterator[Watch]:
        """A bar for one run; pass what it yields to `load.run`."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]} requests, {task.fields[failed]} failed"),
            TimeRemainingColumn(),
        )
        shown = self.console.is_terminal  # a log file gets no bars
        with Progress(*columns, console=self.console, transient=True, disable=not shown) as progress:
            bar = progress.add_task(title, total=requests or seconds, done=0, failed=0)
            counts = {"done": 0, "failed": 0}

            def watch(sample: Sample) -> None:
                counts["done"] += 1
                counts["failed"] += sample.error is not None
                done, failed = counts["done"], counts["failed"]
                progress.update(bar, completed=done if requests else None, done=done, failed=failed)

            async def tick() -> None:
                began_s = time.perf_counter()
                while requests is None:
                    progress.update(bar, completed=time.perf_counter() - began_s)
                    await asyncio.sleep(_TICK_S)

            ticking = asyncio.create_task(tick())
            try:
                yield watch
            finally:
                ticking.cancel()

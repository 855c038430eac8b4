"""Progress on stderr, because the last line of stdout is the JSON object."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.harness.client import RequestResult
from benchmarks.harness.load_generator import OnResult, RunLength

_REFRESH_S = 0.25


class ProgressReporter:
    """Log lines, and one progress bar per run while it lasts; `quiet` shows neither."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)

    def log(self, text: str) -> None:
        """Print one line above the bar."""
        self.console.print(text, highlight=False)

    @contextlib.asynccontextmanager
    async def bar(self, title: str, length: RunLength) -> AsyncIterator[OnResult]:
        """Show a bar for one run. Yields the `on_result` for `generate_load`."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]} requests, {task.fields[failed]} failed"),
            TimeRemainingColumn(),
        )
        requests = length.requests
        shown = self.console.is_terminal  # a log file gets no bars
        with Progress(*columns, console=self.console, transient=True, disable=not shown) as progress:
            bar = progress.add_task(title, total=requests or length.seconds, done=0, failed=0)
            counts = {"done": 0, "failed": 0}

            def on_result(result: RequestResult) -> None:
                counts["done"] += 1
                counts["failed"] += result.error is not None
                done, failed = counts["done"], counts["failed"]
                progress.update(bar, completed=done if requests else None, done=done, failed=failed)

            async def refresh() -> None:
                began_s = time.perf_counter()
                while requests is None:
                    progress.update(bar, completed=time.perf_counter() - began_s)
                    await asyncio.sleep(_REFRESH_S)

            refreshing = asyncio.create_task(refresh())
            try:
                yield on_result
            finally:
                refreshing.cancel()

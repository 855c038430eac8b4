"""The engine's interface for adapters."""

from __future__ import annotations

from typing import Protocol

from adapters.models import EngineAdapter


class Loader(Protocol):
    """Loads and unloads adapters; `server.engine.runtime.Engine` implements it on vLLM's `AsyncLLM`.

    Every call must end in bounded time. Calls for different ids may overlap; calls for one id never do.
    """

    async def load(self, adapter: EngineAdapter) -> None:
        """Load the adapter into the engine (`add_lora`, never `load_inplace`).

        Raises: LoadFailed: the engine refused it; EngineGone: there is no engine.
        """

    async def unload(self, engine_id: int) -> None:
        """Remove an id from the engine (`remove_lora`); nothing happens when the engine does not know it.

        Raises: EngineGone.
        """

    async def loaded(self) -> frozenset[int]:
        """The loaded ids (`list_loras`). Raises: EngineGone."""

    async def probe(self, adapter: EngineAdapter) -> None:
        """Let a loaded adapter answer one short greedy prompt.

        Raises: ProbeFailed: it did not end, or its numbers were not finite; EngineGone.
        """

"""Prepares the grammar of a generation before the engine sees the request: in a worker process that can be ended.

A grammar that no library enforces, that no answer can match, or that takes too much time or memory is refused with a
reason, and costs nobody else anything. What is prepared is kept on disk, per tenant: a hit in a shared cache would
tell one tenant what another has sent.

Leans on (vLLM 0.32): SamplingParams.structured_outputs, StructuredOutputsParams, get_structured_output_key.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from uuid import uuid4

from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output.request import get_structured_output_key

from sampling.errors import BodyLimitExceeded
from sampling.json_limits import measure
from sampling.limits import Limits
from server.admission.errors import TooManyConcurrent
from server.engine.decoding.grammars import files, worker
from server.engine.decoding.grammars.cache import OwnedCache
from server.engine.decoding.grammars.errors import GrammarRefused, TooComplex
from server.engine.decoding.grammars.prepared_grammar import PreparedGrammar, validate_only_unprepared
from server.engine.workers.errors import WorkerDied, WorkRefused, WorkTimedOut
from server.engine.workers.pool import WorkerPool
from server.errors import InvalidRequest
from server.request.context import RequestContext

logger = logging.getLogger("loragate.grammars")

#: Bytes of prepared grammars on disk; those of running generations may exceed them.
DISK_BYTES = 1 << 30
#: Most memory that compiling one grammar may take.
WORKER_BYTES = 2 << 30
#: `compile_s` where the operator has lifted it: work has to end.
_NO_LIMIT_S = 600.0
#: The fields that can ask for a grammar, in the order in which one is named in a refusal.
_FIELDS = ("structured_outputs", "response_format", "text", "output_config", "output_format", "tools")
#: What a caller can do whose tool has a schema that cannot be enforced.
_FREE_TOOL = (
    ' Change the parameters of the tool, or send tool_choice "auto", with which calls need not match them.'
)


@dataclass(slots=True)
class _Flight:
    """One compilation and the generations that wait for it; it is ended when the last one leaves."""

    task: asyncio.Task[None]
    waiting: int = 0


@dataclass(slots=True)
class Grammars:
    """The prepared grammars of one engine. `folder` is emptied."""

    folder: Path
    pool: WorkerPool
    _flights: dict[str, _Flight] = field(default_factory=dict)
    _cache: OwnedCache[Path] = field(init=False)
    _starting: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)  # those of an earlier engine
        self.folder.mkdir(parents=True)
        self._cache = OwnedCache(DISK_BYTES, on_drop=partial(Path.unlink, missing_ok=True))

    @classmethod
    def of(cls, config: VllmConfig, folder: Path) -> Grammars:
        """For an engine with this configuration."""
        validate_only_unprepared()
        pool = WorkerPool(
            partial(worker.set_up_compiler, config),
            spare=1,
            memory_bytes=WORKER_BYTES,
            name="loragate grammar compiler",
        )
        return cls(folder, pool)

    def start(self) -> None:
        """Start a worker in advance, so that the first grammar does not wait for it."""
        self._starting = asyncio.ensure_future(self.pool.start())
        self._starting.add_done_callback(_report)

    async def close(self) -> None:
        """End the workers."""
        if self._starting is not None:
            await asyncio.wait([self._starting])
        await self.pool.close()

    @contextlib.asynccontextmanager
    async def prepared(self, context: RequestContext, params: SamplingParams) -> AsyncIterator[None]:
        """Make `params` name the prepared grammar, which is kept until the end of the block.

        Raises:
            BodyLimitExceeded: it is larger or deeper than the limits.
            InvalidRequest: it is refused, with the reason.
            TooManyConcurrent: too many grammars of this tenant wait.
        """
        wanted = params.structured_outputs
        if wanted is None or wanted.all_constraints_none():
            yield
            return
        about = _About(context)
        key = about.check(wanted)
        owner = context.caller.tenant_name
        self._cache.pin(owner, key)
        try:
            path = self._cache.get(owner, key) or await self._compiled(about, wanted, owner, key)
            params.structured_outputs = PreparedGrammar(grammar=f"{files.PREFIX}{path.name}")
            yield
        finally:
            self._cache.unpin(owner, key)

    async def _compiled(self, about: _About, wanted: StructuredOutputsParams, owner: str, key: str) -> Path:
        """Compile, or wait for the same compilation."""
        path = self.folder / f"{hashlib.sha256(owner.encode()).hexdigest()[:16]}-{key}"
        flight = self._flights.get(path.name)
        if flight is None:
            work = asyncio.ensure_future(self._compile(about, wanted, owner, key, path))
            flight = self._flights[path.name] = _Flight(work)
        flight.waiting += 1
        try:
            await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                del self._flights[path.name]
                flight.task.cancel()
        return path

    async def _compile(
        self, about: _About, wanted: StructuredOutputsParams, owner: str, key: str, path: Path
    ) -> None:
        scratch = path.with_name(f"{uuid4().hex}.part")  # stays when its worker is killed
        order = worker.Order(wanted, str(path), str(scratch), about.limits.schema_depth)
        # Half of the time for all libraries, half for the one that compiles least in advance.
        limit_s = about.compile_s / 2
        try:
            try:
                made = await self.pool.run(owner, worker.compile_grammar, order, limit_s=limit_s)
            except (WorkTimedOut, WorkerDied):
                order = replace(order, tries_all=False)
                made = await self.pool.run(owner, worker.compile_grammar, order, limit_s=limit_s)
        except (GrammarRefused, WorkTimedOut, WorkerDied) as error:
            raise about.refusal(error) from error
        except WorkRefused as error:
            raise about.queue_is_full(error) from error
        finally:
            scratch.unlink(missing_ok=True)
        self._cache.put(owner, key, path, made.size_bytes)


@dataclass(frozen=True, slots=True)
class _About:
    """One request, as far as its grammar and the refusals of it are concerned."""

    context: RequestContext

    @property
    def limits(self) -> Limits:
        """The limits of this request."""
        return self.context.limits

    @property
    def compile_s(self) -> float:
        """Most seconds of compiling."""
        return float(self.limits.compile_s or _NO_LIMIT_S)

    @property
    def param(self) -> str | None:
        """The field of the body that the grammar comes from."""
        body = self.context.sampling.body
        return next((name for name in _FIELDS if body.get(name)), None)

    def check(self, wanted: StructuredOutputsParams) -> str:
        """Check size and depth; returns the grammar's key. Raises: BodyLimitExceeded, InvalidRequest."""
        param = self.param or "structured_outputs"
        try:
            kind, text = get_structured_output_key(wanted)
            data = text.encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidRequest(
                "The grammar is not valid text.", param=param, code="invalid_grammar"
            ) from error
        if (limit := self.limits.schema_bytes) is not None and len(data) > limit:
            raise BodyLimitExceeded("schema_bytes", len(data), limit, "bytes of schema or grammar", param)
        if (limit := self.limits.schema_depth) is not None and isinstance(wanted.json, dict):
            depth = measure(wanted.json).depth
            if depth > limit:
                raise BodyLimitExceeded("schema_depth", depth, limit, "levels of nested schema", param)
        return hashlib.sha256(f"{kind.name}:".encode() + data).hexdigest()

    def refusal(self, error: Exception) -> InvalidRequest:
        """What the caller of a grammar that cannot be prepared is told."""
        code, text = "grammar_too_complex", str(error)
        if isinstance(error, WorkTimedOut):
            text = f"it took longer than {self.compile_s:g} s (limit 'compile_s' of the server or of your tenant)"
        elif isinstance(error, WorkerDied):
            text = f"its compiler crashed or needed more than {WORKER_BYTES >> 20} MiB"
        elif not isinstance(error, TooComplex):
            return InvalidRequest(
                f"The requested form of the answer cannot be enforced: {text}.{self._next_step}",
                param=self.param,
                code="invalid_grammar",
            )
        return InvalidRequest(
            f"The requested form of the answer is too complex: {text}. Make the schema or grammar smaller.",
            param=self.param,
            code=code,
        )

    @property
    def _next_step(self) -> str:
        return _FREE_TOOL if self.param == "tools" else ""

    def queue_is_full(self, error: WorkRefused) -> TooManyConcurrent:
        """What a caller whose tenant has many grammars waiting is told."""
        return TooManyConcurrent(
            f"{error.waiting} schemas or grammars of yours wait to be compiled already; try again shortly.",
            limit="grammars_waiting",
            asked=1,
            used=error.waiting,
            allowed=error.waiting,
            retry_after_s=self.compile_s,
        )


def _report(starting: asyncio.Future[None]) -> None:
    if not starting.cancelled() and (error := starting.exception()) is not None:
        logger.error("The grammar compiler could not be started in advance: %s", error)

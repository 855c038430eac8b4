"""Whether memory was the reason, and the screen that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.config.settings import Settings
from server.planner.out_of_memory import DeviceMemory, OutOfMemoryReport, kernel_kills, read_memory_error
from server.planner.plan import GIB

CPU_ERROR = (
    "ValueError: Available memory on node 0 (5.49/21.34 GiB) on kv cache allocation is less than requested"
)
SHORT_ERROR = (
    "ValueError: To serve at least one request with the model's max seq len (4096), (0.02 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (0.0 GiB)."
)


def write(log: Path, *exceptions: str) -> None:
    """What the engine's processes leave (`server.config.logs.JsonFormatter`)."""
    records = [{"event": "EngineCore failed to start.", "exception": f"Traceback …\n{e}"} for e in exceptions]
    log.write_text("\n".join(map(json.dumps, records)) + "\nno json\n[1]\n")


def watch(
    log: Path, kills: list[int], memory: DeviceMemory | None = None, **changes: object
) -> OutOfMemoryReport:
    settings = Settings(demo=True, **changes)  # type: ignore[arg-type]
    there_is = memory or DeviceMemory(24 * GIB, 8 * GIB)
    return OutOfMemoryReport(
        settings, log, device="cpu", measure=lambda: there_is, count_kills=lambda: kills[0]
    )


def test_a_cache_larger_than_the_machine(tmp_path: Path) -> None:
    log = tmp_path / "home" / "errors.log"
    watching = watch(log, [0], kv_cache_memory_bytes=10**12)
    watching.begin()
    write(log, "KeyError: 'x'", CPU_ERROR)
    screen = watching.explain()
    assert screen is not None and len(screen.splitlines()) <= 24
    assert "Available memory on node 0" in screen and "ValueError" not in screen
    assert "--kv-cache-memory-bytes 1000000000000" in screen and "8.00 GiB free of 24.00 GiB" in screen
    advised = int(screen.rpartition("--kv-cache-memory-bytes ")[2].split()[0])
    assert 5 * GIB < advised < 8 * GIB


def test_a_cache_smaller_than_one_sequence(tmp_path: Path) -> None:
    log = tmp_path / "errors.log"
    watching = watch(log, [0], kv_cache_memory_bytes=2_000_000)
    watching.begin()
    write(log, SHORT_ERROR)
    screen = watching.explain()
    assert screen is not None and "too small for one sequence of 4096 tokens" in screen
    assert "--kv-cache-memory-bytes 17301504" in screen, "32 blocks of one sequence and vLLM's own"


def test_what_should_have_fitted_is_told_so_with_smaller_steps(tmp_path: Path) -> None:
    """A limit of the process that nobody told us of: there was plenty, and it was not to be had."""
    log = tmp_path / "errors.log"
    watching = watch(log, [0], DeviceMemory(24 * GIB, 20 * GIB))
    watching.begin()
    write(log, "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 55 bytes.")
    screen = watching.explain()
    assert screen is not None and "By this calculation it fits" in screen and "ulimit -v" in screen
    assert "  --max-num-batched-tokens 1024  long prompts" in screen and "  --max-num-seqs 32  " in screen


def test_killed_by_the_kernel(tmp_path: Path) -> None:
    kills = [3]
    watching = watch(tmp_path / "errors.log", kills)
    watching.begin()
    assert watching.explain() is None
    kills[0] = 4
    screen = watching.explain()
    assert screen is not None and "kernel killed a process" in screen
    watching.begin()
    assert watching.explain() is None, "a new start has a new count"


def test_other_reasons_are_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "errors.log"
    watching = watch(log, [0])
    watching.begin()
    write(log, "ValueError: the model has no head")
    assert watching.explain() is None
    assert read_memory_error(tmp_path / "missing") is None


def test_a_gpu_that_somebody_else_fills(tmp_path: Path) -> None:
    log = tmp_path / "errors.log"
    settings = Settings(model="Qwen/Qwen2.5-3B", max_model_len=4096)
    watching = OutOfMemoryReport(
        settings, log, device="cuda", measure=lambda: DeviceMemory(24 * GIB, 15 * GIB), count_kills=lambda: 0
    )
    watching.begin()
    write(
        log,
        "ValueError: Free memory on device cuda:0 (15/24 GiB) on startup is less than desired GPU memory utilization",
    )
    screen = watching.explain()
    assert screen is not None and "--gpu-memory-utilization 0.62" in screen


@pytest.mark.parametrize("model", ["Nobody/Unknown"])
def test_a_model_without_a_plan_still_gets_the_reason(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.planner.models._fetch", lambda name: {"model_type": "odd"})
    watching = OutOfMemoryReport(
        Settings(model=model),
        tmp_path / "errors.log",
        device="cuda",
        measure=lambda: DeviceMemory(GIB, GIB),
        count_kills=lambda: 0,
    )
    watching.begin()
    write(tmp_path / "errors.log", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    assert watching.explain() == (
        "The engine ran out of memory.\n  CUDA out of memory. Tried to allocate 2.00 GiB"
    )


def test_the_kernels_count_is_a_number() -> None:
    assert kernel_kills() >= 0

"""Where the time of a decode step goes, by part: `python -m benchmarks.lora.decode.step_profile MODEL [options]`.

An engine runs in this process, without the server. Hooks measure the parts of the model, so that a step takes a few
per cent longer than without them; a part's time does not contain that of a part inside it. `other` is what is left:
the model runner's preparation, small operators between the parts, and Python.

Prints one JSON object as the last line: milliseconds per step.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # before vLLM is imported

_LAYERS = {
    "RMSNorm": "norms", "SiluAndMul": "activation", "Attention": "attention", "Sampler": "sampler",
    "LogitsProcessor": "lm_head",
}  # fmt: skip
_WARM_UP_STEPS = 4
_TENANT = "bench"


class PartTimer:
    """Adds up the exclusive time of named parts, which may contain each other."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}
        self._open: list[tuple[str, float]] = []
        self._since_s = 0.0

    def begin(self, name: str) -> None:
        """A part begins; the time of the part around it stops."""
        self._charge()
        self._open.append((name, 0.0))

    def end(self) -> None:
        """The part that began last ends."""
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        now_s = time.perf_counter()
        if self._open:
            name = self._open[-1][0]
            self.spent_s[name] = self.spent_s.get(name, 0.0) + now_s - self._since_s
        self._since_s = now_s

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Measure a method of a class or an object from now on."""
        inner: Callable[..., Any] = getattr(owner, method)

        def measured(*args: Any, **kwargs: Any) -> Any:
            self.begin(name)
            try:
                return inner(*args, **kwargs)
            finally:
                self.end()

        setattr(owner, method, measured)

    def watch(self, module: Any, name: str) -> None:
        """Measure a module of torch from now on."""
        module.register_forward_pre_hook(lambda *_: self.begin(name))
        module.register_forward_hook(lambda *_: self.end())


def main(argv: Sequence[str]) -> int:
    """Measure and print the time of each part of a decoding step."""
    options = _parser().parse_args(argv)
    if options.cores:
        os.sched_setaffinity(0, set(range(options.cores)))
    print(json.dumps(profile(options), separators=(",", ":")), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lora.decode.step_profile")
    add = parser.add_argument
    add("model", type=Path)
    add("--streams", type=int, default=1)
    add("--steps", type=int, default=32)
    add("--adapters", type=Path, nargs="*", default=[], help="folders of adapters, which take turns")
    add("--cores", type=int, default=0, help="use the first cores only")
    add("--stock-linears", action="store_true", help="use vLLM's linear layers")
    return parser


def profile(options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds per step and part."""
    engine = _engine(options)
    timer = PartTimer()
    runner = engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    _watch(timer, engine.engine_core.engine_core, runner)
    _add_requests(engine, options)
    for _ in range(_WARM_UP_STEPS):
        engine.step()
    timer.spent_s.clear()
    began_s = time.perf_counter()
    for _ in range(options.steps):
        timer.begin("other")
        engine.step()
        timer.end()
    took_s = time.perf_counter() - began_s
    parts = {name: round(1e3 * spent_s / options.steps, 3) for name, spent_s in sorted(timer.spent_s.items())}
    per_step_s = took_s / options.steps
    return {
        "step_ms": round(1e3 * per_step_s, 3), "tokens_per_s": round(options.streams / per_step_s, 2), **parts
    }  # fmt: skip


def _engine(options: argparse.Namespace) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from server.config.settings import load
    from server.engine.args import engine_args

    settings = load({"model": str(options.model), "max_model_len": 2048, "max_num_seqs": 32, "max_loras": 4})
    ours = vars(engine_args(settings))
    kept = {name: ours[name] for name in EngineArgs.__dataclass_fields__ if name in ours}
    kept["disable_log_stats"] = True
    kept["kv_cache_memory_bytes"] = 256 * 1024**2
    if options.stock_linears:
        from server.engine.linears_cpu import capability

        capability.computes_packed = lambda: False  # before the worker imports it
    return LLMEngine.from_engine_args(EngineArgs(**kept))


def _watch(timer: PartTimer, core: Any, runner: Any) -> None:
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.quantization.auto_awq import AutoAWQMarlinLinearMethod

    from server.engine.lora_cpu.wrapper import LoragatePunicaWrapperCPU

    for method in (UnquantizedLinearMethod, AutoAWQMarlinLinearMethod):
        timer.wrap(method, "apply", "linears")
    for name in ("add_lora_linear", "update_metadata"):
        timer.wrap(LoragatePunicaWrapperCPU, name, "lora")
    for name in ("schedule", "update_from_output"):
        timer.wrap(core.scheduler, name, "scheduler")
    for module in runner.get_model().modules():
        kind = type(module).__name__
        part = _LAYERS.get(kind) or ("rotary" if "Rotary" in kind else None)
        if part is not None:
            timer.watch(module, part)
    timer.wrap(type(runner.sampler), "forward", "sampler")
    timer.wrap(runner, "_prepare_inputs", "prepare_inputs")


def _add_requests(engine: Any, options: argparse.Namespace) -> None:
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import SamplingParams

    from adapters.tenant_settings import TenantSettings
    from server.fairness.shares import STAMP_KEY, stamp

    tokens = options.steps + _WARM_UP_STEPS + 8
    own = {STAMP_KEY: stamp(_TENANT, TenantSettings(), background=False)}
    for stream in range(options.streams):
        params = SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False, extra_args=own
        )
        adapter = None
        if options.adapters:
            place = stream % len(options.adapters)
            adapter = LoRARequest(f"a{place}", place + 1, str(options.adapters[place]))
        prompt: Any = {"prompt_token_ids": list(range(1000 + stream, 1008 + stream)), "cache_salt": _TENANT}
        engine.add_request(f"r{stream}", prompt, params, lora_request=adapter)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

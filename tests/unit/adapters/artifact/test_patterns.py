"""Ranks and alphas by pattern: PEFT's own rule decides, and a pattern has no power over the server or the engine."""

from __future__ import annotations

import json
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key
from vllm.lora.peft_helper import PEFTHelper

from adapters.artifact import BaseShape, inspect_artifact
from adapters.artifact.patterns import as_patterns, resolve
from adapters.errors import ArtifactRefused
from tests.unit.adapters.building import BASE, bits, make_config, make_tensors, write_adapter

MODULES = tuple(BASE.modules())
DEEP = tuple(
    f"model.layers.{n}.mlp.{leaf}" for n in range(80) for leaf in ("up_proj", "gate_proj", "down_proj")
)

# As PEFT's documentation, its initializations and trainers write them.
PATTERNS = [
    {"q_proj": 8},
    {"^model.layers.0.self_attn.q_proj": 8},
    {r"model\.layers\.0\.self_attn\.(q|k)_proj": 8, "self_attn.q_proj": 16},
    {r".*\.layers\.[01]\..*_proj": 8},
    {r"layers\.(?:0|1)\.mlp\.(?!down).*": 8, r"mlp\.down_proj": 2},
    {r"layers\.\d+\.self_attn\.(?P<leaf>q_proj|v_proj)": 8},
    {r"(?:[a-z_]+\.)+layers\.1\.mlp\.\w+": 8},
    {"layers.1": 8},
    {module: rank for rank, module in enumerate(MODULES, 1)},
    {"(a+)+": 8},
    {r"(a|b\.)*.*.*q_proj": 8},
]


def keep(value: Any, name: str) -> Any:
    return value


@pytest.mark.parametrize("patterns", PATTERNS, ids=str)
def test_each_module_gets_the_value_that_peft_gives_it(patterns: dict[str, int]) -> None:
    wanted = {module: patterns.get(get_pattern_key(patterns.keys(), module), 4) for module in MODULES}
    resolved = resolve(patterns, "rank_pattern", keep, MODULES)
    first = {module: ranks[0] for module, ranks in resolved.items()}
    assert {module: first.get(module, 4) for module in MODULES} == wanted
    engine = PEFTHelper(r=4, lora_alpha=8, target_modules=[], rank_pattern=as_patterns(first))
    assert {module: engine.get_rank_and_scaling(module)[0] for module in MODULES} == wanted


@given(st.dictionaries(st.sampled_from((*DEEP, "lm_head", "model.embed_tokens")), st.integers(1, 4)))
def test_the_engines_patterns_match_what_they_stand_for(values: dict[str, int]) -> None:
    engine = PEFTHelper(r=64, lora_alpha=8, target_modules=[], rank_pattern=as_patterns(values))
    names = {*DEEP, "lm_head", "model.embed_tokens", "model.layers.1", "xmodel.layers.1.mlp.up_proj"}
    assert {n: r for n in names if (r := engine.get_rank_and_scaling(n)[0]) != 64} == values


def test_the_stored_configuration_has_the_engines_patterns_only(tmp_path: Path) -> None:
    tensors = make_tensors()
    patterns = {"alpha_pattern": {r"(?:.*\.)?layers\.1\.mlp\..*": 32, "no_such_layer": 3}}
    config = inspect_artifact(
        write_adapter(tmp_path, tensors, make_config(**patterns)), base=BASE, max_lora_rank=16
    ).config
    (_only_one,) = config["alpha_pattern"]
    assert "rank_pattern" not in config and ".*" not in json.dumps(config)
    engine = PEFTHelper.from_dict(dict(config))
    scaled = {module for module in MODULES if engine.get_rank_and_scaling(module)[1] == 8}
    assert scaled == {module for module in MODULES if module.startswith("model.layers.1.mlp.")}


OVERLAPPING = {"layers.1.mlp.up_proj": 16, "up_proj": 2}


def test_the_tensors_tell_which_of_two_ranks_was_trained(tmp_path: Path) -> None:
    """PEFT writes patterns in alphabetical order, and cannot load what it trained in another one."""
    tensors = make_tensors()
    for module in MODULES:
        if module.endswith("up_proj"):
            for side, rows in (("A", (2, 32)), ("B", (64, 2))):
                values = bits(np.full(rows, 0.1), "F32")
                tensors[f"base_model.model.{module}.lora_{side}.weight"] = ("F32", values)
    config = make_config(rank_pattern=OVERLAPPING)
    report = inspect_artifact(write_adapter(tmp_path, tensors, config), base=BASE, max_lora_rank=16)
    engine = PEFTHelper.from_dict(dict(report.config))
    ranks = {module: engine.get_rank_and_scaling(module)[0] for module in MODULES}
    assert ranks == {module: 2 if module.endswith("up_proj") else 4 for module in MODULES}
    unsorted = dict(reversed(OVERLAPPING.items())) | {"a": 4}  # not written by PEFT: this order is the one
    write_adapter(tmp_path, tensors, make_config(rank_pattern=unsorted))
    inspect_artifact(tmp_path, base=BASE, max_lora_rank=16)


def test_an_alpha_that_nobody_can_know_is_told(tmp_path: Path) -> None:
    def hints(patterns: dict[str, float]) -> tuple[str, ...]:
        write_adapter(tmp_path, config=make_config(alpha_pattern=patterns))
        return inspect_artifact(tmp_path, base=BASE, max_lora_rank=16).hints

    (hint,) = hints(OVERLAPPING)
    assert "the alphas 16 and 2 for model.layers.1.mlp.up_proj" in hint and "16 is used, as PEFT does" in hint
    assert (
        hints({"up_proj": 2, "layers.1.mlp.up_proj": 16}) == ()
    )  # not PEFT's order, so the one of the training
    assert hints({"layers.1.mlp.up_proj": 2, "up_proj": 2}) == ()
    assert hints({"layers.1.mlp.up_proj": 2, "down_proj": 3}) == ()


@pytest.mark.slow
def test_a_pattern_that_takes_long_is_refused_while_other_threads_run() -> None:
    pattern = r"(?:\w|\w\w|\.|\w\.)+(?<!\w)"  # backtracks over every way to divide the path
    ticks: list[float] = []
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(0.005):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    began_s = time.monotonic()
    with pytest.raises(ArtifactRefused, match="take longer than 2 s to match"):
        resolve({pattern: 8}, "rank_pattern", keep, DEEP)
    took_s = time.monotonic() - began_s
    ended.set()
    thread.join()
    assert took_s < 4
    assert max(b - a for a, b in pairwise(ticks)) < 0.5, "the interpreter's lock was held"


@pytest.mark.slow
def test_many_patterns_of_a_deep_model_take_seconds_at_most() -> None:
    deep = BaseShape("qwen2", 80, 8192, 29568, 64, 8, 128, 152064, False)
    modules = deep.modules()
    began_s = time.process_time()
    ranks = resolve({name: n % 16 + 1 for n, name in enumerate(modules)}, "rank_pattern", keep, modules)
    first = {module: found[0] for module, found in ranks.items()}
    engine = PEFTHelper(r=64, lora_alpha=8, target_modules=[], rank_pattern=as_patterns(first))
    assert {module: engine.get_rank_and_scaling(module)[0] for module in modules} == first
    assert time.process_time() - began_s < 4

"""The background class in vLLM's real scheduler: what it leaves to requests, and that its tokens come out right."""

from __future__ import annotations

import random

import pytest

from tests.unit.server.engine.scheduling.scheduler_rig import Rig


@pytest.fixture(params=[1, 2], ids=["synchronous", "asynchronous"])
def depth(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def running(rig: Rig) -> set[str]:
    return {request.request_id for request in rig.scheduler.running}


def test_it_fills_the_engine_and_gives_way_in_the_step_of_an_arrival(depth: int) -> None:
    rig = Rig(depth=depth, max_num_seqs=8)
    for number in range(8):
        rig.add(f"b{number}", background=True, generate=40)
    rig.step()
    rig.step()
    assert len(running(rig)) == 8
    rig.add("f", generate=20)
    output = rig.step()
    assert "f" in output.num_scheduled_tokens and running(rig) == {"f"}
    rig.step()
    rig.step()
    assert len(running(rig)) == 2, "one slot beside it"
    rig.run()
    assert {len(tokens) for name, tokens in rig.tokens.items() if name != "f"} == {40}


def test_beside_running_requests_it_computes_its_prompt_a_little_at_a_time(depth: int) -> None:
    rig = Rig(depth=depth, max_tokens_per_step=256, blocks=400)
    rig.add("f", generate=30)
    rig.step()
    rig.step()
    rig.add("b", background=True, prompt=300, generate=2)
    tokens = [rig.step().num_scheduled_tokens.get("b", 0) for _ in range(4)]
    assert tokens == [64, 64, 64, 64]
    rig.add("g", prompt=200, generate=2)
    output = rig.step()
    assert output.num_scheduled_tokens["g"] == 200, "the prompt of a request is not cut for it"
    assert "b" not in output.num_scheduled_tokens
    rig.run()


def test_its_blocks_and_its_time_are_in_its_tenants_row(depth: int) -> None:
    rig = Rig(depth=depth)
    rig.add("b", background=True, generate=10)
    for _ in range(4):
        rig.step()
    row = rig.scheduler.report()["tenants"]["acme"]
    assert (row["running"], row["kv_blocks"]) == (0, 0)
    assert row["background"]["running"] == 1
    assert row["kv_block_seconds"] > 0
    rig.run()
    assert list(rig.scheduler.report()["tenants"]) == ["acme"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_under_random_load_requests_start_as_if_it_were_not_there(depth: int, seed: int) -> None:
    starts, answers = [], []
    for with_background in (True, False):
        rng = random.Random(seed)
        rig = Rig(depth=depth, blocks=80, max_num_seqs=6, max_loras=2 if seed % 2 else None)
        for step in range(150):
            for background in (False, True):
                if rng.random() < (0.25 if background else 0.12):
                    size = rng.randint(1, 60), rng.randint(1, 30), rng.randint(0, 3) if seed % 2 else 0
                    if with_background or not background:
                        prompt, generate, adapter = size
                        rig.add(
                            f"{'b' if background else 'f'}{step}",
                            prompt=prompt,
                            generate=generate,
                            adapter=adapter,
                            background=background,
                        )
            rig.step()
        rig.run()
        assert set(rig.finished) == set(rig.requests)
        starts.append({name: round(at, 2) for name, at in rig.started_s.items() if name.startswith("f")})
        answers.append({name: tokens for name, tokens in rig.tokens.items() if name.startswith("f")})
    assert answers[0] == answers[1]
    assert starts[0] == starts[1]

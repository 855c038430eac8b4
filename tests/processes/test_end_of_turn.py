"""A base model that names the wrong end token still ends its turns; and steering, on the same server.

One server for both, because a start is dear: the demo model as a base checkpoint would come, without
generation_config.json and with <|endoftext|> as its only end, served with `--repetition-adjustment`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from custom_server import SERVED_NAME, add_demo_adapters, custom_server

import demo

OPERATORS = (
    "--sampling-defaults", '{"top_p": 0.95, "min_p": 0.01}',
    "--presets", '{"brief": {"max_tokens": 3, "temperature": 0}, "chat": {"temperature": 0.6}}',
    "--limits", '{"max_tokens": 200, "n": 2}',
)  # fmt: skip
HELLO = [{"role": "user", "content": "Hello!"}]


def write_base_checkpoint(target: Path) -> Path:
    """The demo model as if it had never been taught to chat."""
    shutil.copytree(demo.MODEL_DIR, target)
    (target / "generation_config.json").unlink()
    tokenizer_config = json.loads((target / "tokenizer_config.json").read_text())
    tokenizer_config["eos_token"] = "<|endoftext|>"
    (target / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    config = json.loads((target / "config.json").read_text())
    config["eos_token_id"] = config["pad_token_id"]
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("base")
    model = write_base_checkpoint(folder / "model")
    # The folder is not called after Qwen: its config says that it is one, and so which parser reads its calls.
    flags = ("--repetition-adjustment", "--max-num-seqs", "8", *OPERATORS)
    with custom_server(model, folder / "home", *flags) as (_, opened):
        yield opened


def chat(client: httpx.Client, **options: Any) -> dict[str, Any]:
    ask = {"model": SERVED_NAME, "messages": HELLO, "temperature": 0, "max_tokens": 120}
    answer = client.post("/v1/chat/completions", json=ask | options)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_turn_ends_and_the_users_next_one_is_not_written(client: httpx.Client) -> None:
    answer = chat(client, skip_special_tokens=False)
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert "<|im_start|>" not in choice["message"]["content"]


def test_without_its_end_tokens_it_would_run_on(client: httpx.Client) -> None:
    """So the test above can fail."""
    assert chat(client, ignore_eos=True)["choices"][0]["finish_reason"] == "length"


def test_min_tokens_hold_the_end_back(client: httpx.Client) -> None:
    """They are end tokens, and no stop tokens of each request: `min_tokens` and `ignore_eos` mean them."""
    short = chat(client)["usage"]["completion_tokens"]
    assert chat(client, min_tokens=short + 4)["usage"]["completion_tokens"] >= short + 4


def test_an_adapter_of_another_base_is_refused_in_words(client: httpx.Client) -> None:
    """Its config differs, so its digest does: training.json gives it away."""
    answers = add_demo_adapters(client)
    assert {answer.status_code for answer in answers} == {400}
    assert all("base" in answer.json()["error"]["message"] for answer in answers)


def loop(client: httpx.Client, **options: Any) -> list[int]:
    """Two tokens may come, and one is far likelier: an answer that goes in circles."""
    tokens = [client.post("/tokenize", json={"prompt": letter}).json()["tokens"][0] for letter in "xy"]
    body = {
        "model": SERVED_NAME,
        "prompt": "x",
        "max_tokens": 160,
        "ignore_eos": True,
        "allowed_token_ids": tokens,
        "logit_bias": {str(tokens[0]): 100, str(tokens[1]): 92},
        "return_token_ids": True,
        "temperature": 0,
    }
    answer = client.post("/v1/completions", json=body | options).json()
    ids: list[int] = answer["choices"][0]["token_ids"]
    return ids


def test_steering_breaks_a_loop(client: httpx.Client) -> None:
    """100 / 1.3 is less than 92: with the penalty at its bound the other token comes, also when greedy."""
    assert len(set(loop(client))) == 1
    before = adjustments(client)
    steered = loop(client, repetition="adjust")
    assert len(set(steered)) == 2
    assert adjustments(client) == before + 1
    assert len(set(steered[:40])) == 1, "nothing may change before a loop has formed"


def adjustments(client: httpx.Client) -> float:
    """Answers that were counted as steered."""
    text = client.get("/metrics").text
    found = re.findall(
        r'^loragate_repetition_adjustments_total\{adapter="",tenant="",version=""\} (\S+)', text, re.M
    )
    return float(found[0]) if found else 0.0


def test_an_answer_that_varies_is_not_steered(client: httpx.Client) -> None:
    before = adjustments(client)
    assert loop(client, repetition="adjust", max_tokens=20)
    assert adjustments(client) == before


def test_a_steered_answer_leaves_its_neighbours_alone(client: httpx.Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    alone = loop(client)
    with ThreadPoolExecutor(4) as pool:
        asked = [{}, {"repetition": "adjust"}, {}, {"repetition": "adjust"}]
        answers = list(pool.map(lambda options: loop(client, **options), asked))
    assert answers[0] == answers[2] == alone
    assert len(set(answers[1])) == len(set(answers[3])) == 2


# The operator's own decoding: the server's layer, presets and limits


def debug(client: httpx.Client, **options: Any) -> dict[str, tuple[Any, str]]:
    body = {"model": SERVED_NAME, "messages": HELLO, **options}
    answer = client.post("/v1/chat/completions", json=body, headers={"x-loragate-debug": "1"})
    assert answer.status_code == 200, answer.text
    shown = json.loads(answer.headers["x-loragate-debug"])
    return {name: (held["value"], held["from"]) for name, held in shown.items()}


def test_an_operators_preset_is_listed_and_used(client: httpx.Client) -> None:
    listed = client.get("/v1/presets").json()["data"]
    assert listed["brief"] == {"max_tokens": 3, "temperature": 0} and "factual" in listed
    assert listed["chat"]["temperature"] == 0.6, "one of our names is the operator's to change"
    held = debug(client, preset="brief")
    assert held["max_tokens"] == (3, "preset:brief") and held["temperature"] == (0, "preset:brief")
    assert chat(client, preset="brief", max_tokens=None)["usage"]["completion_tokens"] <= 3


def test_the_servers_layer_is_the_lowest(client: httpx.Client) -> None:
    held = debug(client, preset="code", max_tokens=4)
    assert held["min_p"] == (0.01, "server")
    assert held["top_p"] == (0.9, "preset:code"), "a preset goes before the server's own"
    assert debug(client, top_p=0.5, max_tokens=4)["top_p"] == (0.5, "request")


def test_the_servers_limits_hold_for_everybody(client: httpx.Client) -> None:
    body = {"model": SERVED_NAME, "messages": HELLO, "temperature": 0, "max_tokens": 900}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.headers["x-loragate-clamped"] == "max_tokens=200"
    refused = client.post("/v1/chat/completions", json=body | {"n": 3, "temperature": 1})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "n"


def test_the_parser_of_tool_calls_is_found_by_the_models_kind(client: httpx.Client) -> None:
    """Without one, vLLM refuses tool_choice "auto"."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    assert chat(client, tools=[tool], tool_choice="auto")["choices"]

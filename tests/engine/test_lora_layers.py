"""An engine that leaves out layers of an adapter does not serve it, neither after its addition nor from before it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from custom_server import SERVED_NAME, add_demo_adapters, custom_server
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import demo

pytestmark = pytest.mark.long  # two engines start

FLAGS = ("--max-model-len", "256", "--max-num-seqs", "4")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with a demo adapter from before its engine was told to change q, k and v only."""
    home = tmp_path_factory.mktemp("narrow")
    with custom_server(demo.MODEL_DIR, home, *FLAGS) as (_, client):
        assert [answer.status_code for answer in add_demo_adapters(client)] == [201, 201]
    narrowed = json.dumps({"lora_target_modules": ["q_proj", "v_proj"]})
    with custom_server(demo.MODEL_DIR, home, *FLAGS, "--engine-args", narrowed) as (_, client):
        yield client


def test_an_adapter_of_more_layers_is_refused(narrow: httpx.Client) -> None:
    adapter = demo.ADAPTERS["acme-support"]
    added = narrow.post("/admin/v1/adapters/acme/support/versions", json={"source": str(adapter.path)})
    told = added.json()["error"]["message"]
    assert added.status_code == 400 and "to 12 of the adapter's 28 layers" in told
    assert "would leave out o_proj, gate_proj, up_proj, down_proj without a word" in told
    assert "retrain with target_modules among q_proj, k_proj, v_proj" in told


def test_an_adapter_that_was_stored_before_is_not_served(narrow: httpx.Client) -> None:
    body = {"model": "acme-support", "prompt": "Hi", "max_tokens": 1}
    answer = narrow.post("/v1/completions", json=body)
    assert answer.status_code >= 400, answer.text
    promoted = narrow.post("/admin/v1/adapters/acme/support/promote", json={"version": 1})
    assert "would leave out o_proj" in promoted.json()["error"]["message"]
    assert narrow.post("/v1/completions", json={**body, "model": SERVED_NAME}).status_code == 200


def test_an_adapter_of_the_remaining_layers_is_served(narrow: httpx.Client, tmp_path: Path) -> None:
    # vLLM holds q, k and v in one layer, so k_proj is changed too.
    config = LoraConfig(
        r=4, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    torch.manual_seed(0)
    get_peft_model(AutoModelForCausalLM.from_pretrained(demo.MODEL_DIR), config).save_pretrained(tmp_path)
    added = narrow.post("/admin/v1/adapters/acme/narrow/versions", json={"source": str(tmp_path)})
    assert added.status_code == 201, added.text

"""/metrics of the running server: everything that is declared is there, and says what happened."""

from __future__ import annotations

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from server_process import ServerProcess

from server.observability.metrics import SERIES

SUPPORT = "acme-support"
HELLO = [{"role": "user", "content": "Hello!"}]


def scrape(server: ServerProcess) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for metric in text_string_to_metric_families(httpx.get(f"{server.url}/metrics", timeout=30).text):
        for sample in metric.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(found: dict[str, list[tuple[dict[str, str], float]]], name: str, **labels: str) -> float:
    return sum(value for have, value in found.get(name, []) if labels.items() <= have.items())


@pytest.fixture(scope="module")
def traffic(server: ServerProcess, acme: openai.OpenAI, globex: openai.OpenAI) -> None:
    """One of each kind that makes a series: streamed, whole, base model, refused, wrong key."""
    for chunk in acme.chat.completions.create(model=SUPPORT, messages=HELLO, stream=True, max_tokens=12):
        assert chunk.model == SUPPORT
    rated = globex.chat.completions.create(model="globex-tools", messages=HELLO, max_tokens=4)
    rating = {"request_id": rated.id, "rating": "up"}
    said = httpx.post(
        f"{server.url}/v1/feedback", json=rating, headers={"authorization": "Bearer demo-globex"}
    )
    said.raise_for_status()
    acme.chat.completions.create(model="loragate-demo", messages=HELLO, max_tokens=4)
    with pytest.raises(openai.NotFoundError):
        acme.chat.completions.create(model="nobody", messages=HELLO)


def test_every_declared_series_is_exposed_with_its_labels(server: ServerProcess, traffic: None) -> None:
    found = scrape(server)
    for series in SERIES.values():
        name = series.exposed_name + ("_count" if series.kind == "histogram" else "")
        assert name in found, f"{name} is declared and not exposed"
        assert all(set(labels) == set(series.labels) for labels, _ in found[name]), name
    undeclared = {
        name
        for name in found
        if name.startswith("loragate_")
        and name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count").removesuffix("_created")
        not in {series.exposed_name for series in SERIES.values()}
        | {s.exposed_name.removesuffix("_total") for s in SERIES.values()}
    }
    assert undeclared == set()
    assert any(name.startswith("vllm:") for name in found), "vLLM's own series pass through"


def test_routers_find_an_adapter_by_its_public_name(server: ServerProcess, acme: openai.OpenAI) -> None:
    acme.chat.completions.create(model=SUPPORT, messages=HELLO, max_tokens=4)
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    infos = [line for line in text.splitlines() if line.startswith("vllm:lora_requests_info{")]
    assert len(infos) == 1 and "#" not in infos[0], infos
    for name in ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"):
        assert f"\n{name}{{" in text, f"routers read {name}"
    assert f'vllm:lora_adapter_loaded{{adapter_name="{SUPPORT}",level="cpu"}} 1.0' in text


@pytest.fixture
def model_labels(server: ServerProcess) -> dict[str, str]:
    version = server.serving_version("acme", "support")
    return {"tenant": "acme", "adapter": "support", "version": str(version)}


def test_counts_tell_tenants_apart(
    server: ServerProcess, acme: openai.OpenAI, model_labels: dict[str, str]
) -> None:
    before = scrape(server)
    answer = acme.chat.completions.create(model=SUPPORT, messages=HELLO, temperature=0, max_tokens=20)
    chunks = list(
        acme.chat.completions.create(model=SUPPORT, messages=HELLO, temperature=0, max_tokens=20, stream=True)
    )
    after = scrape(server)
    assert answer.usage is not None and chunks

    def grown(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    model = {**model_labels, "endpoint": "chat", "status": "200"}
    assert grown("loragate_requests_total", **model) == 2
    assert grown("loragate_requests_total", tenant="globex") == 0
    tokens = grown("loragate_tokens_total", **model_labels, kind="generated")
    assert tokens == 2 * answer.usage.completion_tokens
    assert grown("loragate_tokens_total", **model_labels, kind="prompt") == 2 * answer.usage.prompt_tokens
    assert grown("loragate_time_to_first_token_seconds_count", **model_labels) == 2
    assert grown("loragate_request_duration_seconds_count", **model_labels) == 2
    assert grown("loragate_queue_seconds_count", **model_labels) == 2
    # each token of the streamed answer but its first one
    assert grown("loragate_inter_token_seconds_count", **model_labels) == answer.usage.completion_tokens - 1
    assert grown("loragate_scheduler_steps_total") > 0
    assert grown("loragate_kv_block_seconds_total", tenant="acme") > 0


def test_a_whole_answer_has_the_time_of_its_first_token(
    server: ServerProcess, acme: openai.OpenAI, model_labels: dict[str, str]
) -> None:
    """It comes all at once, but its first token was there long before."""
    before = scrape(server)
    acme.chat.completions.create(
        model=SUPPORT, messages=HELLO, max_tokens=200, extra_body={"ignore_eos": True}
    )
    after = scrape(server)

    def seconds(name: str) -> float:
        return total(after, f"{name}_sum", **model_labels) - total(before, f"{name}_sum", **model_labels)

    assert (
        0
        < seconds("loragate_time_to_first_token_seconds")
        < 0.5 * seconds("loragate_request_duration_seconds")
    )


def test_refusals_and_wrong_keys_are_counted(server: ServerProcess, acme: openai.OpenAI) -> None:
    before = scrape(server)
    with pytest.raises(openai.NotFoundError):
        acme.chat.completions.create(model="nobody", messages=HELLO)
    assert httpx.post(f"{server.url}/v1/chat/completions", json={}).status_code == 401
    after = scrape(server)
    why = {"tenant": "acme", "reason": "model_not_found"}
    assert (
        total(after, "loragate_rejections_total", **why)
        == total(before, "loragate_rejections_total", **why) + 1
    )
    attempts = "loragate_failed_attempts_total"
    assert total(after, attempts) == total(before, attempts) + 1


def test_budgets_and_residency(server: ServerProcess, traffic: None) -> None:
    found = scrape(server)
    capacity = total(found, "loragate_kv_capacity_blocks")
    assert capacity > 0
    for tenant in ("acme", "globex"):
        limit = total(found, "loragate_kv_limit_blocks", tenant=tenant)
        assert 0 <= total(found, "loragate_kv_guaranteed_blocks", tenant=tenant) <= limit <= capacity
    assert total(found, "loragate_adapters_resident", place="cpu") >= 2
    assert total(found, "loragate_adapter_versions", state="ready", tenant="acme") >= 1
    assert total(found, "loragate_adapter_load_seconds_count") >= 2
    assert total(found, "loragate_kv_limit_violations_total") == 0
    assert total(found, "loragate_registry_query_seconds_count", operation="select") > 0

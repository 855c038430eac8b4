"""What a front answers for all servers together."""

from __future__ import annotations

from front_servers import serving
from prometheus_client.parser import text_string_to_metric_families

from server.cluster.merged_answers import merged_live, merged_metrics

TEXT = """# HELP tokens_total Tokens.
# TYPE tokens_total counter
tokens_total{tenant="acme"} 3.0
# HELP latency_seconds Latency.
# TYPE latency_seconds histogram
latency_seconds_bucket{le="1.0"} 1.0
latency_seconds_bucket{le="+Inf"} 2.0
latency_seconds_count 2.0
latency_seconds_sum 5.0
"""


def live(state: str = "ready", **more: object) -> dict[str, object]:
    capacity = {"kv_blocks": 10, "block_size_tokens": 16, "max_num_seqs": 4}
    row = {"tenant": "acme", "running": 1, "waiting": 2, "kv_blocks": 3, "weight": 2.0}
    found = {"state": state, "adapters_loaded": 1, "adapters_capacity": 4, "capacity": capacity}
    return {**found, "tenants": [row], **more}


def test_each_series_of_each_server_is_there_once_under_one_help_text() -> None:
    merged = merged_metrics({"r1": TEXT, "r2": TEXT}).decode()
    assert merged.count("# TYPE tokens_total counter") == merged.count("# HELP latency_seconds ") == 1
    samples = [s for family in text_string_to_metric_families(merged) for s in family.samples]
    assert len(samples) == 2 * 5
    assert {s.labels["replica"] for s in samples if s.name == "latency_seconds_bucket"} == {"r1", "r2"}


def test_live_adds_up_and_says_each_servers_state() -> None:
    merged = merged_live({"r1": live("restarting"), "r2": live()})
    assert merged["state"] == "ready" and merged["adapters_loaded"] == 2 and merged["adapters_capacity"] == 8
    assert merged["capacity"] == {"kv_blocks": 20, "block_size_tokens": 16, "max_num_seqs": 8}
    assert merged["tenants"] == [
        {"tenant": "acme", "running": 2, "waiting": 4, "kv_blocks": 6, "weight": 2.0}
    ]
    assert [each["state"] for each in merged["replicas"]] == ["restarting", "ready"]


def test_a_tenants_live_view_has_no_capacity() -> None:
    own = {name: value for name, value in live().items() if "capacity" not in name}
    assert "capacity" not in merged_live({"r1": own, "r2": own})


async def test_a_refusal_of_one_server_is_the_answer() -> None:
    from aiohttp import web

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"code": "forbidden"}}, status=403)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=TEXT)

    async with serving(answer, refuse) as (client, _):
        assert (await client.get("/metrics")).status_code == 403
    async with serving(answer, answer) as (client, servers):
        servers.urls.append("http://127.0.0.1:9")  # one that does not answer is left out
        assert 'tokens_total{replica="r1",tenant="acme"} 3.0' in (await client.get("/metrics")).text


async def test_the_cluster_lists_every_server_by_the_fronts_id() -> None:
    from aiohttp import web

    async def tell(request: web.Request) -> web.Response:
        if "authorization" not in request.headers:
            return web.json_response({"error": {"code": "invalid_api_key"}}, status=401)
        row = {
            "id": "registry's",
            "server": "registry's",
            "state": "ready",
            "url": "u",
            "held": ["acme-support"],
        }
        return web.json_response({"data": [row]})

    async with serving(tell, tell) as (client, servers):
        servers.urls.append("http://127.0.0.1:9")
        assert (await client.get("/admin/v1/cluster")).status_code == 401
        rows = (await client.get("/admin/v1/cluster", headers={"authorization": "Bearer k"})).json()["data"]
    assert [(row["id"], row["state"], row["held"]) for row in rows] == [
        ("r0", "ready", ["acme-support"]),
        ("r1", "ready", ["acme-support"]),
        ("r2", "unreachable", None),
    ]
    assert rows[0]["server"] == "registry's" and rows[2]["url"] == "http://127.0.0.1:9"

"""`python -m benchmarks serving` against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from server_process import ServerProcess

REPOSITORY = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m benchmarks` to its end."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=240)


def test_serving_prints_tables_and_then_one_json_object(server: ServerProcess) -> None:
    done = bench(
        "serving", "--url", server.url, "--tenants", "acme:1,globex:1", "--duration", "3", "--warm-up", "0.5",
        "--arrivals", "poisson:4", "--prompt-tokens", "lognormal:48", "--output-tokens", "12", "--seed", "3",
        "--slo-ttft-ms", "60000", "--sweep", "clients=2", "--peer-url", server.url,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "TTFT" in done.stdout and len(lines) > 3
    figures = json.loads(lines[-1])
    total = figures["servers"]["loragate"]["total"]
    assert total["errors"] == {}
    assert total["requests"] > 0
    assert total["output_tokens"] == 12 * total["requests"], "lengths are exact"
    assert total["slo_kept"] == 1
    assert 0 < total["ttft_ms"]["p50"] <= total["ttft_ms"]["p99"] <= total["e2e_ms"]["p99"]
    assert set(figures["servers"]["loragate"]["adapters"]) <= {"acme-support", "globex-tools"}
    assert figures["sweeps"]["clients"]["loragate"][0][1] > 0
    assert set(figures["servers"]) == {"loragate", "peer"}
    assert figures["gateway_vs_peer_ttft_p50"] > 0, "the same server is also the peer"
    assert figures["machine"]["vllm"] and figures["machine"]["cpu"]
    assert "demo-acme" not in done.stdout, "keys are not in reports"


def test_refused_requests_are_counted_by_kind(server: ServerProcess) -> None:
    done = bench(
        "serving", "--url", server.url, "--tenants", "acme", "--adapters", "acme-support", "--duration", "2",
        "--warm-up", "0", "--arrivals", "constant:4", "--prompt-tokens", "6000", "--output-tokens", "4",
    )  # fmt: skip
    assert done.returncode == 1, "nothing was answered"
    total = json.loads(done.stdout.splitlines()[-1])["servers"]["loragate"]["total"]
    assert total["errors"] == {"http_400": total["requests"]}


def test_a_wrong_key_ends_with_one_sentence(server: ServerProcess) -> None:
    done = bench("serving", "--url", server.url, "--tenants", "acme", "--keys", "acme=wrong", "--quiet")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "401" in done.stderr

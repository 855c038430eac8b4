"""The plan is what the engine does, and a start without memory ends in one screen."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
from click.testing import CliRunner, Result
from server_process import LORAGATE, ServerProcess

from server.cli.main import main


def shell(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LORAGATE, *args], capture_output=True, text=True, timeout=240, cwd="/")


def inspect(*args: str) -> Result:
    """In this process: its imports take a second each time."""
    return CliRunner().invoke(main, ["inspect", *args])


def test_the_blocks_that_are_predicted_are_those_the_engine_reports(
    server: ServerProcess, tmp_path: Path
) -> None:
    planned = json.loads(shell("plan", "--demo", "--data-dir", str(tmp_path), "--json").stdout)["plan"]
    info = re.search(r"vllm:cache_config_info\{[^}]*\}", httpx.get(f"{server.url}/metrics").text)
    assert info is not None
    reported = dict(re.findall(r'(\w+)="([^"]*)"', info[0]))
    assert planned["kv_blocks"] == int(reported["num_gpu_blocks"])
    assert planned["block_size_tokens"] == int(reported["block_size"])
    assert planned["kv_cache_bytes"] == int(reported["kv_cache_memory_bytes"])


def test_the_issues_plan_and_its_exit_codes(tmp_path: Path) -> None:
    wish = ["--memory", "24GiB", "--max-model-len", "4096", "--max-loras", "8", "--max-lora-rank", "16"]
    wish += ["--gpu-memory-utilization", "0.9", "--concurrency", "50", "--data-dir", str(tmp_path)]
    done = shell("plan", "--model", "Qwen/Qwen2.5-3B", *wish, "--guarantee", "acme=0.25")
    assert done.returncode == 0 and "36864 bytes per token" in done.stdout, done.stderr
    assert re.search(r"acme is guaranteed \d+ tokens", done.stdout)
    done = shell("plan", "--model", "Qwen/Qwen2.5-14B", *wish)
    assert done.returncode == 1 and "--quantization awq --max-model-len" in done.stdout
    assert shell("plan", "--model", "Qwen/Qwen2.5-3B").returncode == 2, "no memory is named"


def test_inspect(tmp_path: Path) -> None:
    import demo

    adapter = demo.ADAPTERS["acme-support"].path
    facts = json.loads(inspect("demo", "--adapter", str(adapter), "--json").stdout)
    assert facts["lora_parameters"] == facts["adapter"]["parameters"]
    assert [row["name"] for row in facts["projections"]][:2] == ["q_proj", "k_proj"]
    text = inspect("Qwen/Qwen2.5-3B", "--rank", "8").stdout
    assert "3,085,938,688 parameters" in text and "KV heads 2" in text and "256 x 2048" in text
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    training = json.loads((other / "training.json").read_text())
    assert training["template_digest"] and training["end_token"]
    changed = {"template_digest": "0" * 64, "end_token": "</s>", "end_token_id": 99_999}
    (other / "training.json").write_text(json.dumps(training | changed))
    text = inspect("demo", "--adapter", str(other)).stdout
    assert "warning: It was trained with another chat template" in text
    assert "warning: It was trained to end its answers with </s>" in text
    (other / "training.json").write_text(json.dumps(training | {"base_digest": "0" * 64}))
    refused = inspect("demo", "--adapter", str(other))
    assert refused.exit_code == 1 and "base" in refused.stderr
    refused = inspect("Qwen/Qwen2.5-3B", "--adapter", str(adapter))
    assert refused.exit_code == 1 and "cannot be served" in refused.stderr

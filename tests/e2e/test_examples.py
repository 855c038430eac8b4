"""Every file in examples/ runs against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from server_process import ServerProcess

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").iterdir())
#: What each prints, among other things.
PRINTS = {
    "json_schema.py": "'urgent': ",
    "langchain_chat.py": "Welcome to Acme support!",
    "sdk_chat.py": "globex-tools: ",
    "streaming.py": " tokens)",
    "tools.py": "get_weather {'city': 'Paris'}",
    "train_publish_canary_promote.sh": '"model":"acme-tutorial@2"',
}


def test_each_example_is_tested_and_shown() -> None:
    assert [file.name for file in EXAMPLES] == sorted(PRINTS)
    page = (EXAMPLES[0].parents[1] / "docs" / "examples.md").read_text(encoding="utf-8")
    assert all(f'"examples/{name}"' in page for name in PRINTS)


@pytest.mark.timeout(600)  # two trainings, on a machine that may be busy
@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_example(server: ServerProcess, tmp_path: Path, file: Path) -> None:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LORAGATE_URL": server.url,
    }
    command = ["bash", str(file)] if file.suffix == ".sh" else [sys.executable, str(file)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=550, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert PRINTS[file.name] in done.stdout, done.stdout + done.stderr


def test_the_script_leaves_no_adapter_behind(server: ServerProcess) -> None:
    """Later tests list acme's models."""
    models = httpx.get(f"{server.url}/v1/models", headers={"authorization": "Bearer demo-acme"}).json()[
        "data"
    ]
    assert "acme-tutorial" not in {model["id"] for model in models}

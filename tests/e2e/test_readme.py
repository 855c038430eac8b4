"""The README's code runs, in its order, against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from server_process import ServerProcess

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: the README's paths are those of the repository."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "demo").symlink_to(ROOT / "demo")
    return folder


@pytest.mark.parametrize(("language", "code"), BLOCKS, ids=lambda text: text.splitlines()[0][:40])
def test_block(server: ServerProcess, folder: Path, language: str, code: str) -> None:
    makes = re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)
    if makes:
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in makes)
        return
    code = code.replace("http://127.0.0.1:8000", server.url)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LORAGATE_URL": server.url,
        "LORAGATE_KEY": "demo-admin",  # with a URL, the commands for tenants and keys ask the server, too
        "LORAGATE_DATA_DIR": str(server.data_dir),
        "LORAGATE_DEMO": "true",
    }
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip(), "every block shows something"
    assert '"error"' not in done.stdout, done.stdout


def test_the_map_names_what_is_there() -> None:
    (tree,) = re.findall(r"^```\n(server/.*?)^```", README, re.MULTILINE | re.DOTALL)
    for line in tree.splitlines():
        name = line.split()[0]
        assert (ROOT / name).is_dir() or (ROOT / "server" / name).is_dir(), name


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target

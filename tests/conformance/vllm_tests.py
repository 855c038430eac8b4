"""vLLM's own tests, from its source distribution, made ready to call a running loragate.

Nothing of them is kept in this repository: they are fetched with pip into a folder that git ignores.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import demo

HERE = Path(__file__).parent
# pip reads the metadata of a source distribution by its build backend. This one reads it from the file that
# the distribution has already; vLLM's own backend would want a compiler and a CUDA torch.
NO_BUILD = """
from pathlib import Path

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    metadata = Path("PKG-INFO").read_text(encoding="utf-8")
    fields = dict(line.split(": ", 1) for line in metadata.splitlines()[:6] if ": " in line)
    info = Path(folder, f"{fields['Name']}-{fields['Version']}.dist-info")
    info.mkdir()
    Path(info, "METADATA").write_text(metadata, encoding="utf-8")
    return info.name
"""

#: vLLM's markers, which --strict-markers of ours would not know; a traceback is vLLM's code, so only its end is kept.
INI = """
[pytest]
addopts = -p no:cacheprovider -p no:langsmith_plugin --tb=native --no-summary --show-capture=no -q
timeout = 120
asyncio_default_fixture_loop_scope = function
filterwarnings = ignore
markers =
    slow_test
    optional
    distributed
    skip_global_cleanup
    core_model
    cpu_test
"""


def fetch(version: str, cache: Path) -> Path:
    """The source distribution of this version: from `cache`, or fetched by pip from its configured index."""
    archive = cache / f"vllm-{version}.tar.gz"
    if archive.exists():
        return archive
    with tempfile.TemporaryDirectory() as backend:
        package = Path(backend, "setuptools")
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "build_meta.py").write_text(NO_BUILD, encoding="utf-8")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"]
        command += ["--no-deps", "--no-binary", "vllm", "--no-build-isolation", "--dest", str(cache)]
        subprocess.run([*command, f"vllm=={version}"], check=True, env=os.environ | {"PYTHONPATH": backend})
    return archive


def unpack(archive: Path, folder: Path) -> Path:
    """Only vLLM's folder `tests`, below `folder`; its package would hide the installed one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, member.name = member.name.partition("/")
            if member.name.startswith(("tests/entrypoints/", "tests/__init__.py")):
                tar.extract(member, folder, filter="data")
    return folder


def adapt(folder: Path, expected: dict[str, Any]) -> None:
    """Replace vLLM's server and fixtures by ours, and its models' names by those that loragate serves.

    Each of our names is also a link to the demo model, because the tests read tokenizer and config by name.
    """
    shutil.copy(HERE / "remote_server.py", folder / "tests/utils.py")
    shutil.copy(HERE / "fixtures.py", folder / "tests/conftest.py")
    (folder / "pytest.ini").write_text(INI, encoding="utf-8")
    for file in folder.rglob("test_*.py"):
        name = file.relative_to(folder / "tests/entrypoints").as_posix()
        replaced = {f'"{old}"': f'"{new}"' for old, new in expected["names"].items()}
        replaced |= expected["replace"].get(name, {})
        words = re.compile("|".join(rf"(?<!\w){re.escape(old)}(?!\w)" for old in replaced))
        text = words.sub(lambda found, table=replaced: table[found[0]], file.read_text(encoding="utf-8"))
        file.write_text(text, encoding="utf-8")
    for name in ("loragate-demo", "acme-support", "globex-tools"):
        (folder / name).symlink_to(demo.MODEL_DIR)

"""`make conformance`: vLLM's own OpenAI and Anthropic tests against a running loragate.

Prints how many passed, which differ and why, and what failed. Exit 1 if something failed: a test that is not
listed in expected.toml, a listed one that passes now, a file of vLLM's that nobody decided about.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import tempfile
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import httpx
import pytest
from conformance import vllm_tests

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".conformance"
PREFIX = "tests/entrypoints/"
SUITES = ("openai", "anthropic", "serve", "tool_parsers")
EXPECTED = HERE / "expected.toml"
# vLLM's tests assume a sequence of 8192 tokens; positions beyond the demo's 4096 are computed, not learned.
# Sampling is repeatable, so that a result is of the code and not of chance.
SERVE = ("--demo", "--max-model-len", "8192", "--sampling-defaults", '{"seed": 0}')
SERVE += ("--engine-args", '{"hf_overrides": {"max_position_embeddings": 8192}}')


class Recorder:
    """Keeps the tests that call a server, and remembers how each of them ended."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.messages: dict[str, str] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        kept = [item for item in items if calls_a_server(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.removeprefix(PREFIX)
        if report.when == "call" or report.outcome != "passed":
            if self.outcomes.get(name) != "failed":
                self.outcomes[name] = report.outcome
            if report.outcome == "failed":
                crash = getattr(report.longrepr, "reprcrash", None)
                self.messages[name] = (crash.message if crash else str(report.longrepr)).split("\n")[0][:300]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.outcomes[name := report.nodeid.removeprefix(PREFIX)] = "failed"
            self.messages[name] = str(report.longrepr).strip().split("\n")[-1][:300]


def calls_a_server(item: Any) -> bool:
    """Whether the test, or a fixture that it uses, starts a server; the others test vLLM's classes."""
    fixtures = [found[-1].func for found in item._fixtureinfo.name2fixturedefs.values()]
    sources = [inspect.getsource(inspect.unwrap(f)) for f in fixtures if f.__module__.startswith("tests.")]
    return any(
        "with RemoteOpenAIServer(" in source for source in [inspect.getsource(item.function), *sources]
    )


@contextmanager
def running_server() -> Iterator[str]:
    """A demo server, or the one at CONFORMANCE_URL."""
    if url := os.environ.get("CONFORMANCE_URL"):
        yield url
        return
    from server_process import start

    with tempfile.TemporaryDirectory() as data:
        server = start(*SERVE, data_dir=Path(data))
        try:
            server.wait_for("/ready", 200)
            key = {"tenant": "globex", "models": ["globex-tools"]}
            headers = {"authorization": "Bearer demo-admin"}
            answer = httpx.post(f"{server.url}/admin/v1/keys", json=key, headers=headers).raise_for_status()
            os.environ["CONFORMANCE_KEY"] = answer.json()["secret"]
            yield server.url
        finally:
            server.stop()


def undecided(folder: Path, expected: dict[str, Any]) -> list[str]:
    """Files of vLLM's that start a server and stand neither under `run` nor under `not_run`."""
    files = [file for suite in SUITES for file in (folder / PREFIX / suite).rglob("test_*.py")]
    names = [
        file.relative_to(folder / PREFIX).as_posix()
        for file in files
        if "RemoteOpenAIServer(" in file.read_text(encoding="utf-8")
    ]
    return [
        f"{name}: starts a server and stands neither under [run] nor under [not_run]"
        for name in sorted(names)
        if name not in expected["run"] and not any(fnmatchcase(name, p) for p in expected["not_run"])
    ]


def compare(
    recorder: Recorder, expected: dict[str, Any], counts: bool
) -> tuple[int, dict[str, list[str]], list[str]]:
    """How many passed, which differ by reason, and what failed; `counts`: whether all files were run whole."""
    entries = {pattern: entry for entry in expected["differs"] for pattern in entry["tests"]}
    differs: dict[str, list[str]] = defaultdict(list)
    failed, passed = [], Counter[str]()
    for name, outcome in sorted(recorder.outcomes.items()):
        entry = next((e for p, e in entries.items() if fnmatchcase(name, p.replace("[", "[[]"))), None)
        if entry and (outcome != "passed" or entry.get("by_chance")):
            differs[entry["reason"]].append(name)
        elif entry:
            failed.append(f"{name}: passes, but is listed as different: {entry['reason']}")
        elif outcome == "passed":
            passed[name.partition("::")[0]] += 1
        else:
            failed.append(f"{name}: {outcome}: {recorder.messages.get(name, '')}")
    if counts:
        wrong = {file: number for file, number in expected["run"].items() if passed[file] != number}
        failed += [
            f"{file}: {passed[file]} tests passed, {number} expected" for file, number in wrong.items()
        ]
    return passed.total(), differs, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", default="", help="only tests whose name matches, as in pytest")
    parser.add_argument("files", nargs="*", help="only these files of expected.toml")
    options = parser.parse_args()
    expected = tomllib.loads(EXPECTED.read_text(encoding="utf-8"))
    CACHE.mkdir(exist_ok=True)
    archive = vllm_tests.fetch(expected["version"], CACHE)
    folder = vllm_tests.unpack(archive, CACHE / archive.name.removesuffix(".tar.gz"))
    vllm_tests.adapt(folder, expected)
    files = options.files or list(expected["run"])
    recorder = Recorder()
    with running_server() as url:
        os.environ["CONFORMANCE_URL"] = url
        os.chdir(folder)
        pytest.main(
            ["-c", "pytest.ini", "-k", options.k, *(PREFIX + file for file in files)], plugins=[recorder]
        )
    passed, differs, failed = compare(recorder, expected, counts=not (options.k or options.files))
    failed += undecided(folder, expected)
    print(f"\nvLLM {expected['version']}'s tests against loragate")
    for reason, names in sorted(differs.items(), key=lambda found: -len(found[1])):
        print(f"  differs ({len(names)}): {reason}")
        print("".join(f"    {name}\n" for name in names), end="")
    print("".join(f"  FAILED {line}\n" for line in failed), end="")
    total = sum(len(names) for names in differs.values())
    print(f"{passed} passed, {total} differ with a reason, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

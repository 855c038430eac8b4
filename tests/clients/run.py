"""`make test-clients`: the clients that people use, against a running demo. Prints a table, client × feature.

A cell is the tests of one feature: ok, or passed/all; `-` where the client has no such feature. Exit 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from server_process import start

HERE = Path(__file__).parent
#: Words that a test's name begins with → the column of the table.
FEATURES = {
    "chat": "chat",
    "stream": "stream",
    "usage": "usage",
    "tools_auto": "auto",
    "tools_required": "required",
    "tools_named": "named",
    "structured": "structured",
    "errors": "errors",
    "retries": "retries",
}

#: pytest's exit status when `-k` leaves no test.
NOTHING_CHOSEN = 5


@dataclass(frozen=True)
class Outcome:
    """How one test of a client went."""

    client: str
    test: str
    outcome: str
    message: str

    @property
    def feature(self) -> str:
        """pytest writes parameters in brackets, in the order in which they were declared last."""
        if not self.test.startswith("tools"):
            return next(column for word, column in FEATURES.items() if self.test.startswith(word))
        return next((choice for choice in ("required", "named") if choice in self.test), "auto")


@contextmanager
def demo() -> Iterator[dict[str, str]]:
    """The variables that tell a client where the demo is; it has a third tenant, for one request at a time."""
    with tempfile.TemporaryDirectory() as data:
        server = start("--demo", data_dir=Path(data))
        try:
            server.wait_for("/ready", 200)
            headers = {"authorization": "Bearer demo-admin"}
            with httpx.Client(base_url=f"{server.url}/admin/v1", headers=headers, timeout=30) as http:
                tenant = {"name": "limited", "settings": {"max_concurrency": 1}}
                http.post("/tenants", json=tenant).raise_for_status()
                key = http.post("/keys", json={"tenant": "limited"}).raise_for_status().json()
            yield {"CLIENTS_URL": server.url, "CLIENTS_LIMITED_KEY": key["secret"]}
        finally:
            server.stop()


def run(folder: str, command: list[str], variables: dict[str, str]) -> list[Outcome]:
    """Run the tests of a folder; each of them appends a line to the file CLIENTS_RESULTS.

    A run that ends before all its tests have (a crash, a timeout of a whole file) is a failure of its own.
    """
    with tempfile.TemporaryDirectory() as results:
        file = Path(results, "outcomes.jsonl")
        command = [part.replace("CLIENTS_RESULTS", str(file)) for part in command]
        # LiteLLM would fetch its table of prices.
        variables = variables | {
            "CLIENTS_RESULTS": str(file),
            "PYTHONPATH": "",
            "LITELLM_LOCAL_MODEL_COST_MAP": "true",
        }
        ended = subprocess.run(command, cwd=HERE / folder, env=os.environ | variables, check=False)
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    outcomes = [Outcome(**json.loads(line)) for line in lines]
    if ended.returncode not in (0, NOTHING_CHOSEN) and all(found.outcome == "passed" for found in outcomes):
        message = f"{command[0]} ended with {ended.returncode} before its last test; see above"
        outcomes.append(Outcome(folder, "errors_of_the_run", "failed", message))
    return outcomes


def python_clients(environment: Path, label: str, variables: dict[str, str], only: str) -> list[Outcome]:
    """The tests of python/ in this environment. A client that it lacks is skipped as a whole, without a line."""
    command = [str(environment / "bin/python"), "-m", "pytest", "-c", "pytest.ini", ".", "-k", only]
    outcomes = run("python", command, variables)
    return [
        Outcome(f"{found.client} ({label})", found.test, found.outcome, found.message) for found in outcomes
    ]


def node_clients(variables: dict[str, str], only: str) -> list[Outcome]:
    """The tests of node/."""
    files = [file.name for file in sorted((HERE / "node").glob("client_*.mjs")) if only in file.name]
    reporters = ["--test-reporter=./reporter.mjs", "--test-reporter-destination=CLIENTS_RESULTS"]
    reporters += ["--test-reporter=dot", "--test-reporter-destination=stdout"]
    return (
        run(
            "node",
            ["node", "--test", "--test-concurrency=1", "--test-timeout=300000", *reporters, *files],
            variables,
        )
        if files
        else []
    )


def table(outcomes: list[Outcome]) -> str:
    """One line for each client, one column for each feature."""
    cells: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for found in outcomes:
        cells[found.client][found.feature].append(found.outcome == "passed")
    columns = list(FEATURES.values())
    lines = ["| client | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for client, row in cells.items():
        texts = [f"{sum(row[c])}/{len(row[c])}" if row[c] else "-" for c in columns]
        lines.append(f"| {client} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "environments", nargs="*", help="label=folder of an environment with Python's clients"
    )
    parser.add_argument("-k", default="", help="only clients whose file's name contains it")
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    with demo() as variables:
        for environment in options.environments:
            label, _, folder = environment.partition("=")
            outcomes += python_clients(Path(folder).absolute(), label, variables, options.k)
        outcomes += node_clients(variables, options.k)
    failed = [found for found in outcomes if found.outcome != "passed"]
    print("\n" + table(outcomes))
    print("".join(f"FAILED {found.client}: {found.test}: {found.message}\n" for found in failed), end="")
    print(f"{len(outcomes) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())

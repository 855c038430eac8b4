"""The command line on a database, and on a running server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from server.cli.main import main
from tests.unit.server.app.served import serve

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    with serve(folder, records=str(folder / "records")) as url:
        yield url


@pytest.fixture(params=["database", "server"])
def run(request: pytest.FixtureRequest, url: str, tmp_path: Path, migrated_sqlite: Path) -> Run:
    """The command line on an empty database, or on a running server."""
    shutil.copy(migrated_sqlite, tmp_path / "loragate.db")
    on_server = request.param == "server"
    where = ("--url", url, "--key", "demo-admin") if on_server else ("--data-dir", str(tmp_path))

    def invoke(*args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [*args, *where])
        assert result.exit_code == code, result.output
        return result

    return invoke

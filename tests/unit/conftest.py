"""A migrated SQLite database for every test that wants one: a copy costs less than the migrations."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx._transports.default as httpx_transports
import pytest

from tests.unit.migrated_database import put_migrated_database


@pytest.fixture(scope="session")
async def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("registry") / "migrated.db"
    await put_migrated_database(path)
    return path


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """A migrated database of the test's own."""
    shutil.copy(migrated_sqlite, tmp_path / "registry.db")
    return f"sqlite:///{tmp_path}/registry.db"


@pytest.fixture(scope="session", autouse=True)
def one_certificate_store() -> Iterator[None]:
    """httpx reads the machine's certificates for each client, which takes 30 ms; here once for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx_transports, "create_ssl_context", cache(httpx_transports.create_ssl_context))
        yield

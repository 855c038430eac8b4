"""A migrated SQLite database for every test that wants one: a copy costs less than the migrations."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.migrated_database import put_migrated_database


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Measure the coverage of the tests that are not slow: it makes Python code take half as long again."""
    if config.pluginmanager.hasplugin("_cov"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.no_cover)


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

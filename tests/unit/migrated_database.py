"""A migrated SQLite database: a copy costs a hundredth of the migrations."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

_content: list[bytes] = []


async def put_migrated_database(path: Path) -> None:
    """Write a database with this release's tables and nothing in them."""
    if not _content:
        from adapters.registry import migrate  # takes half a second, which xdist's own process does without

        with TemporaryDirectory() as folder:
            made = Path(folder) / "migrated.db"
            await migrate(f"sqlite:///{made}")
            _content.append(made.read_bytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_content[0])

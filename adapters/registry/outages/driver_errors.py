"""Translation of the database drivers' errors into ours, which name no address and no file."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from adapters.errors import RegistryUnavailable, RegistryUnusable, StoreFull

_FULL = "The disk that holds the registry is full; make room on it, then try again."
_DAMAGED = (
    "The registry's database file is damaged, or is no SQLite database; restore it from a backup, or name another "
    "one with --database-url."
)
_NOT_WRITABLE = (
    "The registry's database file cannot be opened or written; check that its folder exists, is not read-only, has "
    "room, and belongs to the server's user."
)
_REFUSED = "The database server refuses the user, or has no such database; check --database-url."
_NO_URL = (
    "--database-url is not the URL of a database that loragate can use; write it as "
    "postgresql://user:password@host/name, or omit it for SQLite in the data folder."
)
#: Parts of SQLite's messages.
_SQLITE_DAMAGED = ("file is not a database", "disk image is malformed", "file is encrypted")
_SQLITE_NOT_WRITABLE = ("readonly database", "unable to open database file", "disk I/O error")
#: SQLSTATE of PostgreSQL: wrong password or user, no such database.
_SQLSTATE_REFUSED = ("28", "3D000")
#: Connection lost, no resources, server stops or starts, deadlock, lock or idle timeout, a standby after a switch.
_SQLSTATE_AWAY = ("08", "53", "57", "40", "55P03", "25P03", "25006")


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise our errors for those of the driver, except errors of the statement itself.

    Raises: StoreFull, RegistryUnavailable, RegistryUnusable.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        if (ours := _translation(error)) is None:
            raise
        raise ours from error
    except (
        OSError,
        sa.exc.TimeoutError,
    ) as error:  # asyncpg raises the socket's own error, also its timeouts
        raise RegistryUnavailable from error


def unusable_url() -> RegistryUnusable:
    """The error for a URL that names no database, or one whose driver is missing."""
    return RegistryUnusable(_NO_URL)


def unusable_folder(error: OSError) -> StoreFull | RegistryUnusable:
    """The error for a folder of the SQLite file that cannot be created."""
    return (
        StoreFull(_FULL) if error.errno in (errno.ENOSPC, errno.EDQUOT) else RegistryUnusable(_NOT_WRITABLE)
    )


def _translation(error: sa.exc.DBAPIError) -> StoreFull | RegistryUnavailable | None:
    text, sqlstate = str(error.orig), str(getattr(error.orig, "sqlstate", None) or "")
    if "disk is full" in text or sqlstate == "53100":
        return StoreFull(_FULL)
    if any(part in text for part in _SQLITE_DAMAGED):
        return RegistryUnusable(_DAMAGED)
    if any(part in text for part in _SQLITE_NOT_WRITABLE):
        return RegistryUnusable(_NOT_WRITABLE)
    if sqlstate.startswith(_SQLSTATE_REFUSED):
        return RegistryUnusable(_REFUSED)
    lost = error.connection_invalidated or sqlstate.startswith(_SQLSTATE_AWAY)
    if lost or isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
        return RegistryUnavailable()
    return None

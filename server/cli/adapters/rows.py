"""Adapters and versions as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.cli.adapters.upload import progress_text


def version_row(version: Mapping[str, Any], weights: Mapping[int, float]) -> dict[str, Any]:
    """One version as a row; `engine` is its state in the engine and the number of its requests."""
    row = {column: version[column] for column in ("number", "state")}
    slot, fetching = version["slot"], version["fetching"]
    row["engine"] = f"{slot['phase']}, {slot['holders']} in use" if slot else None
    row |= {column: version[column] for column in ("rank", "size_bytes", "pinned", "source")}
    row["weight"] = weights.get(version["number"])
    drifted = version["drifted"]
    row["drift"] = f"{drifted['kind']} at {drifted['at'][:19]}" if drifted else None
    damage = "The stored copy is damaged: add the version again." if version["damaged"] else None
    row["note"] = version["error"] or damage or (progress_text(fetching) if fetching else None)
    return row


def adapter_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """One adapter as a row."""
    targets = row["alias"]["targets"]
    return {
        "model": row["model"],
        "serves": ", ".join(
            f"@{t['version']}" + (f"×{t['weight']:g}" if len(targets) > 1 else "") for t in targets
        ),
        "generation": row["alias"]["generation"],
        "versions": len(row["versions"]),
    }

"""Writes the tenants' JSONL files: ``python -m demo.data [--out DIR]``. The files are the same on every machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from demo.data import write_jsonl
from demo.data.acme import acme_support
from demo.data.globex import globex_tools


def write_all(out: Path) -> None:
    """Write the four files of both tenants into ``out``."""
    for name, make in (("acme-support", acme_support), ("globex-tools", globex_tools)):
        train, held_out = make()
        write_jsonl(out / f"{name}.jsonl", train)
        write_jsonl(out / f"{name}.heldout.jsonl", held_out)
        print(f"{name}: {len(train)} chats to train on, {len(held_out)} held out")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where to write the files")
    write_all(parser.parse_args().out)

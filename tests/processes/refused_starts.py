"""Run as a program: `loragate serve` again and again, each in a fork of this process, which imports the server once.

Reads one JSON list of arguments per line; answers each with one line of JSON: `code` and `said`, all that it wrote.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from collections.abc import Sequence

import server.app.process  # imported once, for all starts
from server.cli.main import main


def start(arguments: Sequence[str]) -> dict[str, object]:
    """One start to its end, in a process of its own."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if not child:
            os.dup2(output.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            _run(arguments)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        errors.seek(0)
        return {"code": os.waitstatus_to_exitcode(status), "said": output.read() + errors.read()}


def _run(arguments: Sequence[str]) -> None:
    """End the process as the command does, but without taking all that was imported apart."""
    try:
        main(arguments, prog_name="loragate")
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))


if __name__ == "__main__":
    assert server.app.process
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(start(json.loads(line))), flush=True)
    os._exit(0)

"""A stop while the engine starts; test_stalls.py has one while the engine does not answer."""

from __future__ import annotations

from pathlib import Path

from server_process import start


def test_a_stop_while_the_engine_starts(tmp_path: Path) -> None:
    running = start("--demo", "--shutdown-timeout", "1", data_dir=tmp_path)
    try:
        running.wait_for("/health", 503)
        running.check_stop(26)  # a busy machine takes its time
    finally:
        if running.process.poll() is None:
            running.process.kill()

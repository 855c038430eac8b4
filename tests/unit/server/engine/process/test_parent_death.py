"""What the fork server forks ends with it, also before it has begun its work."""

from __future__ import annotations

import subprocess
import sys

import psutil

# A server that starts a process whose arguments take long to unpickle, as those do whose modules import libraries.
_SERVER = """
import multiprocessing, time

class Slow:
    def __reduce__(self):
        return time.sleep, (60,)

if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["server.engine.process.fork_server_preload"])
    process = multiprocessing.get_context("forkserver").Process(target=print, args=(Slow(),))
    process.start()
    print(process.pid, flush=True)
    time.sleep(60)
"""


def test_a_forked_process_that_has_not_begun_ends_with_the_server() -> None:
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            forked = psutil.Process(int(server.stdout.readline()))
            fork_server = forked.parent()
            assert fork_server is not None
            assert fork_server.ppid() == server.pid
            assert forked.is_running()
        finally:
            server.kill()
    for process in (fork_server, forked):
        process.wait(20)  # the work of `forked` takes 60 s; raises if it still runs

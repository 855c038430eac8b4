"""Imported first by the fork server: asks the kernel to end it with the server. Leans on nothing of vLLM."""

from __future__ import annotations

import logging

import setproctitle

from server.engine.process.parent_death import request_parent_death_signal

# NOTE: setproctitle finds its memory at its first use, and only while the environment is unchanged.
setproctitle.setproctitle("loragate fork server")
request_parent_death_signal()
logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # it says that there is no Triton

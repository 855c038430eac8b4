"""Imported first by the fork server: it must not outlive the server that started it."""

from __future__ import annotations

import setproctitle

from server.engine.process.parent_death import ask_to_die_with_parent

# NOTE: setproctitle finds its memory on first use, and only while the environment is as the process got it.
setproctitle.setproctitle("loragate fork server")
ask_to_die_with_parent()

"""The server starts with the variables that Kubernetes adds because the Service is called `loragate`."""

from __future__ import annotations

from pathlib import Path

import server_process

LINKS = {
    "LORAGATE_SERVICE_HOST": "10.0.0.1",
    "LORAGATE_SERVICE_PORT": "8000",
    "LORAGATE_SERVICE_PORT_HTTP": "8000",
    "LORAGATE_PORT": "tcp://10.0.0.1:8000",
    "LORAGATE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "LORAGATE_PORT_8000_TCP_PROTO": "tcp",
    "LORAGATE_PORT_8000_TCP_PORT": "8000",
    "LORAGATE_PORT_8000_TCP_ADDR": "10.0.0.1",
    "LORAGATE_CONSOLE_SERVICE_HOST": "10.0.0.2",
    "LORAGATE_CONSOLE_SERVICE_PORT": "80",
    "LORAGATE_CONSOLE_PORT": "tcp://10.0.0.2:80",
    "LORAGATE_CONSOLE_PORT_80_TCP": "tcp://10.0.0.2:80",
    "LORAGATE_CONSOLE_PORT_80_TCP_PROTO": "tcp",
    "LORAGATE_CONSOLE_PORT_80_TCP_PORT": "80",
    "LORAGATE_CONSOLE_PORT_80_TCP_ADDR": "10.0.0.2",
}


def test_a_pod_beside_its_own_service_becomes_ready(tmp_path: Path) -> None:
    """The file chooses the port: a flag would hide what becomes of `LORAGATE_PORT`."""
    config = tmp_path / "loragate.toml"
    config.write_text("port = 0\n", encoding="utf-8")
    flags = ("--demo", "--config", str(config))
    server = server_process.start(*flags, data_dir=tmp_path / "data", variables=LINKS)
    try:
        server.wait_for("/ready", 200)
        (ignored,) = server.events("service-link variables are ignored")
        assert ignored["variables"] == sorted(LINKS)
    finally:
        assert server.stop() == 0

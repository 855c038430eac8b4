"""The server over HTTPS: the official client, the command line, and a client without TLS.

The same server has the variables that Kubernetes adds because the Service is called `loragate`.
"""

from __future__ import annotations

import http.client
import os
import signal
import ssl
import subprocess
import time
from pathlib import Path

import httpx
import openai
import pytest
from certificates import write_pair
from server_process import LORAGATE, start

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


def test_a_server_with_a_certificate_beside_its_own_service(tmp_path: Path) -> None:
    """A file chooses the port: a flag would hide what becomes of `LORAGATE_PORT`."""
    config, pair = tmp_path / "loragate.toml", write_pair(tmp_path / "tls")
    config.write_text("port = 0\n", encoding="utf-8")
    flags = ["--config", str(config), "--tls-cert", str(pair.cert), "--ssl-keyfile", str(pair.key)]
    running = start("--demo", *flags, data_dir=tmp_path / "data", variables=LINKS)
    try:
        (ignored,) = running.events("service-link variables are ignored")
        assert ignored["variables"] == sorted(LINKS)
        assert running.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=pair.cert)
        _wait_until_ready(running.url, trusted)
        client = openai.OpenAI(
            base_url=f"{running.url}/v1",
            api_key="demo-acme",
            http_client=httpx.Client(verify=trusted),
            max_retries=0,
        )
        answer = client.chat.completions.create(
            model="acme-support", messages=[{"role": "user", "content": "Hello!"}], max_tokens=4
        )
        assert answer.choices[0].message.content
        _the_command_line_trusts_the_authority(running.url, pair.cert)
        host, port = running.url.removeprefix("https://").split(":")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            plain = http.client.HTTPConnection(host, int(port), timeout=10)
            plain.request("GET", "/health")
            plain.getresponse()
        assert httpx.get(f"{running.url}/health", verify=trusted, timeout=30).status_code == 200
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0
        assert "Traceback" not in "\n".join(running.raw)
    finally:
        if running.process.poll() is None:
            running.process.kill()


def _wait_until_ready(url: str, trusted: ssl.SSLContext) -> None:
    deadline = time.monotonic() + 240
    with httpx.Client(verify=trusted, timeout=30) as client:
        while time.monotonic() < deadline:
            if client.get(f"{url}/ready").status_code == 200:
                return
            time.sleep(0.1)
    raise AssertionError("the server did not become ready")


def _the_command_line_trusts_the_authority(url: str, authority: Path) -> None:
    command = [LORAGATE, "adapter", "list", "--url", url, "--key", "demo-admin"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LORAGATE_")}
    done = subprocess.run(
        [*command, "--ca-cert", str(authority)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "acme" in done.stdout
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "Give --ca-cert the certificate of the authority" in done.stderr

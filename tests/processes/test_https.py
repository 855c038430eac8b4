"""The server over HTTPS: the official client, the command line, a client without TLS, and a renewed certificate."""

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


def test_a_server_with_a_certificate(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "tls")
    flags = ["--tls-cert", str(pair.cert), "--ssl-keyfile", str(pair.key)]
    running = start("--demo", *flags, data_dir=tmp_path / "data")
    try:
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


def test_a_certificate_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, password=b"secret")
    flags = ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(
        [LORAGATE, "serve", "--demo", "--port", "0", *flags], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("loragate: --tls-key")
    assert "Traceback" not in done.stderr

"""The server's certificate: what it refuses, and that a renewed one is used without a restart."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from certificates import Pair, write_pair
from cryptography import x509

from server.app.tls import Certificate
from server.config.settings import load
from server.errors import SettingsError


def _of_another_pair(folder: Path) -> Pair:
    ours, theirs = write_pair(folder / "a"), write_pair(folder / "b")
    return Pair(ours.cert, theirs.key, ours.serial)


def _with(folder: Path, name: str, content: bytes | None) -> Pair:
    pair = write_pair(folder)
    file = folder / name
    file.unlink() if content is None else file.write_bytes(content)
    return pair


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: write_pair(f, begins=timedelta(days=-9), ends=timedelta(days=-1)), "expired on .* renew"),
        (lambda f: write_pair(f, begins=timedelta(hours=1)), "valid only from .* check the clock"),
        (lambda f: write_pair(f, password=b"secret"), "is encrypted, and the server cannot ask"),
        (_of_another_pair, "is not the key of the first certificate"),
        (lambda f: _with(f, "cert.pem", None), "--tls-cert .* cannot be read: No such file"),
        (lambda f: _with(f, "key.pem", None), "--tls-key .* cannot be read: No such file"),
        (lambda f: _with(f, "cert.pem", b"nothing"), "has no certificate in PEM form"),
        (lambda f: _with(f, "key.pem", b"nothing"), "cannot be used: OpenSSL reports"),
    ],
    ids=["expired", "too early", "encrypted", "mismatch", "no cert", "no key", "cert is text", "key is text"],
)
def test_an_unusable_pair_is_one_sentence(tmp_path: Path, make: Callable[[Path], Pair], message: str) -> None:
    pair = make(tmp_path)
    with pytest.raises(SettingsError, match=message) as caught:
        Certificate(pair.cert, pair.key)
    assert "\n" not in str(caught.value)


def test_both_flags_or_none() -> None:
    with pytest.raises(SettingsError, match="give both, or neither"):
        load({"demo": True, "tls_cert": Path("cert.pem")})
    unset: Any = SimpleNamespace(tls_cert=None, tls_key=None)
    assert Certificate.of(unset) is None


async def _served_serial(certificate: Certificate, trusted: Path) -> int:
    """The serial number of the certificate that a client is shown; the client verifies it."""
    server = await asyncio.start_server(
        lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=certificate.context
    )
    port = server.sockets[0].getsockname()[1]
    context = ssl.create_default_context(cafile=trusted)
    async with server:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


async def test_a_renewed_pair_is_used_for_new_connections(tmp_path: Path) -> None:
    first = write_pair(tmp_path)
    certificate = Certificate(first.cert, first.key)
    assert await _served_serial(certificate, first.cert) == first.serial
    second = write_pair(tmp_path)
    watching = asyncio.create_task(certificate.watch(interval_s=0.01))
    async with asyncio.timeout(10):
        while certificate.expires and await _serial_or_none(certificate, second) != second.serial:
            await asyncio.sleep(0.01)
    watching.cancel()


async def _serial_or_none(certificate: Certificate, pair: Pair) -> int | None:
    try:
        return await _served_serial(certificate, pair.cert)
    except ssl.SSLCertVerificationError:  # still the first one, which this client does not trust
        return None


async def test_half_a_renewal_changes_nothing_until_it_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = write_pair(tmp_path / "used")
    certificate = Certificate(first.cert, first.key)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(first.cert.read_bytes())
    second = write_pair(tmp_path / "new")
    first.cert.write_bytes(second.cert.read_bytes())
    with caplog.at_level(logging.WARNING, "loragate"):
        certificate.reload()
        certificate.reload()
    assert [r.getMessage() for r in caplog.records if "earlier one stays" in r.getMessage()] == [
        caplog.records[0].getMessage()
    ], "one warning for one change"
    assert await _served_serial(certificate, trusted) == first.serial
    first.key.write_bytes(second.key.read_bytes())
    certificate.reload()
    assert await _served_serial(certificate, second.cert) == second.serial


async def test_old_protocols_are_refused(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    certificate = Certificate(pair.cert, pair.key)
    assert certificate.context.minimum_version == ssl.TLSVersion.TLSv1_2

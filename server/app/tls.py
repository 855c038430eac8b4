"""HTTPS: the server's certificate and key, checked before anything starts, and read again when they are renewed.

`load_cert_chain` of a context in use would leave it unusable when a new pair does not match. So each pair gets a
context of its own, and every handshake is given the newest one (`SSLContext.sni_callback`, which OpenSSL calls for
each ClientHello, also for one without a server name).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path

from server.config.settings import Settings
from server.errors import SettingsError

logger = logging.getLogger("loragate")

#: How often the files are looked at, in seconds.
POLL_INTERVAL_S = 10.0

_FileState = tuple[int, int, int]


class _KeyIsEncrypted(Exception):
    """OpenSSL asks for a password."""


class Certificate:
    """A certificate with its private key, from two PEM files."""

    def __init__(self, cert: Path, key: Path) -> None:
        """
        Args:
            cert: the server's certificate, followed by those between it and its authority.
            key: its private key, not encrypted.

        Raises:
            SettingsError: a file cannot be read, the pair does not match, or the certificate is not valid now.
        """
        self._cert, self._key = cert.expanduser(), key.expanduser()
        self._seen = self._state()
        self._current, self.expires = _load(self._cert, self._key)
        #: For the listening socket; hands every connection on to the newest pair.
        self.context = self._current
        self.context.sni_callback = self._use_newest

    @classmethod
    def of(cls, settings: Settings) -> Certificate | None:
        """The certificate of --tls-cert and --tls-key; None without them. Raises: SettingsError."""
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        return cls(settings.tls_cert, settings.tls_key)

    async def watch(self, interval_s: float = POLL_INTERVAL_S) -> None:
        """Read the files again whenever they change, until this task is cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await asyncio.to_thread(self.reload)

    def reload(self) -> None:
        """Read the files again if they have changed; a pair that cannot be used is logged, and the old one stays."""
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._current, self.expires = _load(self._cert, self._key)
        except SettingsError as error:
            logger.warning("The renewed certificate is not used; the earlier one stays: %s", error)
        else:
            logger.info("The renewed certificate is used.", extra={"expires": self.expires.isoformat()})

    def _use_newest(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _state(self) -> tuple[_FileState | None, ...]:
        return tuple(map(_file_state, (self._cert, self._key)))


def _file_state(file: Path) -> _FileState | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _load(cert: Path, key: Path) -> tuple[ssl.SSLContext, datetime]:
    """A context with this pair, and when the certificate expires. Raises: SettingsError."""
    expires = _check_validity(cert, _read("--tls-cert", cert))
    _read("--tls-key", key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except _KeyIsEncrypted:
        raise SettingsError(
            f"--tls-key {key} is encrypted, and the server cannot ask for its password. Write the key without a "
            "password (openssl pkey -in KEY -out NEW) and protect the file by its permissions."
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(
                f"--tls-key {key} is not the key of the first certificate in --tls-cert {cert}."
            ) from error
        raise SettingsError(
            f"--tls-cert {cert} and --tls-key {key} cannot be used: OpenSSL reports {error.reason or error}. "
            "Both must be PEM files."
        ) from error
    except OSError as error:
        raise SettingsError(f"--tls-cert or --tls-key cannot be read: {error.strerror}.") from error
    return context, expires


def _read(flag: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{flag} {file} cannot be read: {error.strerror}.") from error


def _refuse_password() -> str:
    raise _KeyIsEncrypted


def _check_validity(cert: Path, content: bytes) -> datetime:
    from cryptography import x509  # only a server with TLS needs it

    try:
        first = x509.load_pem_x509_certificates(content)[0]
    except ValueError as error:
        raise SettingsError(f"--tls-cert {cert} has no certificate in PEM form.") from error
    now = datetime.now(UTC)
    if first.not_valid_after_utc <= now:
        raise SettingsError(
            f"--tls-cert {cert} expired on {first.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew the certificate."
        )
    if first.not_valid_before_utc > now:
        raise SettingsError(
            f"--tls-cert {cert} is valid only from {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on: check the "
            "clock of this machine, or use another certificate."
        )
    return first.not_valid_after_utc

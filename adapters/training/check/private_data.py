"""Personal data and secrets in texts, by patterns that are rarely wrong. Only their kinds are told, no values."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

_DIGIT = re.compile(r"\d")
_EMAIL = re.compile(r"\b[\w.+-]+@((?:[\w-]+\.)+[a-zA-Z]{2,})\b")
_PHONE = re.compile(
    r"(?<![\w.])(?<!\d )(?:\+|00)[1-9]\d{0,2}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}(?![\w])"
)
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_US_SSN = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_IP = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
_SECRETS = {
    "private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "AWS key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "API key": re.compile(
        r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}|\bAIza[A-Za-z0-9_-]{35}|\bsk_live_[A-Za-z0-9]{16,}"
    ),
    "GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{22,}"),
    "Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
    "Slack token": re.compile(r"\bxox[abposr]-[A-Za-z0-9-]{10,}"),
    "JSON web token": re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
    "password in an address": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/:@<>{}$*]{3,}@[\w.-]+"),
}
_MARKS = ("-----BEGIN", "AKIA", "ASIA", "sk-", "sk_", "AIza", "gh", "hf_", "xox", "eyJ", "://")
_PLACEHOLDERS = re.compile(r"example|x{6,}|your[-_]|0{8,}|1234567", re.IGNORECASE)
_EXAMPLE_DOMAINS = ("example.com", "example.org", "example.net", "test.com", "domain.com", "email.com")


def secrets_in(text: str) -> list[str]:
    """The kinds of secrets in ``text``; placeholders of documentation do not count."""
    if not any(mark in text for mark in _MARKS):  # most texts
        return []
    return [
        kind
        for kind, pattern in _SECRETS.items()
        if any(not _PLACEHOLDERS.search(found.group()) for found in pattern.finditer(text))
    ]


def personal_data_in(text: str) -> list[str]:
    """The kinds of personal data in ``text``."""
    found = []
    if "@" in text and any(_is_real_address(m.group(1)) for m in _EMAIL.finditer(text)):
        found.append("e-mail address")
    if not _DIGIT.search(text):
        return found
    checks: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
        "phone number": (_PHONE, lambda _: True),
        "card number": (_CARD, _is_card),
        "IBAN": (_IBAN, _is_iban),
        "US social security number": (_US_SSN, lambda _: True),
        "IP address": (_IP, _is_public_address),
    }
    return found + [
        kind
        for kind, (pattern, valid) in checks.items()
        if any(valid(m.group()) for m in pattern.finditer(text))
    ]


def _is_real_address(domain: str) -> bool:
    return not domain.lower().endswith(_EXAMPLE_DOMAINS)


def _is_card(text: str) -> bool:
    """Luhn's check sum."""
    digits = [int(c) for c in text if c.isdigit()]
    if len(set(digits)) < 2 or digits[0] not in (2, 3, 4, 5, 6):
        return False
    doubled = [sum(divmod(2 * d, 10)) for d in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """ISO 13616's check sum."""
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _is_public_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False

"""Checks of settings that depend on each other."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING

from server.config.judges import judges_of
from server.config.sign_in import check_sign_in

if TYPE_CHECKING:
    from server.config.settings import Settings

LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
#: A quiet engine is asked once a second; with less than a few questions, a busy machine would look like a stall.
MIN_ENGINE_STALL_S = 5.0


def check_combinations(settings: Settings) -> None:
    """Check what one setting alone does not show. Raises: ValueError, with the values and the next step."""
    if settings.demo and settings.host not in LOOPBACK_HOSTS:
        raise ValueError(
            f"--demo has well-known keys and listens on loopback only, not on {settings.host}: "
            f"use --host 127.0.0.1, or --model with keys of your own."
        )
    if settings.demo and settings.model:
        raise ValueError(f"--demo has its own model: remove --model {settings.model}.")
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ValueError("--tls-cert and --tls-key belong together: give both, or neither.")
    if settings.max_cpu_loras is not None and settings.max_cpu_loras < settings.max_loras:
        raise ValueError(
            f"--max-cpu-loras {settings.max_cpu_loras} is below --max-loras {settings.max_loras}: "
            f"use at least {settings.max_loras}."
        )
    if 0 < settings.engine_stall_s < MIN_ENGINE_STALL_S:
        raise ValueError(
            f"--engine-stall-s {settings.engine_stall_s:g} is shorter than steps and loads of adapters may be: use "
            f"at least {MIN_ENGINE_STALL_S:g}, or 0 to never restart a silent engine."
        )
    _check_webhooks(settings)
    judges_of(settings)
    check_sign_in(settings)


def _check_webhooks(settings: Settings) -> None:
    """Raises: ValueError."""
    try:
        networks_of(settings)
    except ValueError as error:
        raise ValueError(
            f"--webhook-networks {settings.webhook_networks} is no list of networks ({error}): write them as "
            "10.1.0.0/16, with commas between them."
        ) from error
    if any(not part.isdecimal() or not 1 <= int(part) <= 1000 for part in _parts(settings.budget_alerts)):
        raise ValueError(
            f"--budget-alerts {settings.budget_alerts} is no list of percents: write whole numbers from 1 to 1000, "
            "with commas between them."
        )


def networks_of(settings: Settings) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks that webhooks may reach. Raises: ValueError."""
    return tuple(ip_network(part) for part in _parts(settings.webhook_networks))


def alert_percents(settings: Settings) -> tuple[int, ...]:
    """The thresholds of budgets, in rising order."""
    return tuple(sorted({int(part) for part in _parts(settings.budget_alerts)}))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]

"""Service links: variables that an orchestrator adds to a container for each service in reach.

Kubernetes adds them for the Services of the pod's namespace, unless the pod has `enableServiceLinks: false`; Docker
adds them for a container that is named by `--link`. A Service `loragate` with the port 8000 (`http`) gives

    LORAGATE_SERVICE_HOST=10.0.0.1      LORAGATE_SERVICE_PORT=8000      LORAGATE_SERVICE_PORT_HTTP=8000
    LORAGATE_PORT=tcp://10.0.0.1:8000   LORAGATE_PORT_8000_TCP=tcp://10.0.0.1:8000
    LORAGATE_PORT_8000_TCP_PROTO=tcp    LORAGATE_PORT_8000_TCP_PORT=8000    LORAGATE_PORT_8000_TCP_ADDR=10.0.0.1

and a Service `loragate-console` the same below `LORAGATE_CONSOLE_`. These names look like settings of ours and are
none. A variable counts as a service link only if name and value have the form, so `LORAGATE_PORT=9000` is a setting.

Sources: the Kubernetes documentation, "Service", section "Environment variables"; the Docker documentation, "Legacy
container links".
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping

_SERVICE = r"LORAGATE(?:_[A-Z0-9_]+)?"
_ONE_PORT = rf"{_SERVICE}_PORT_(?P<port>[0-9]+)_(?P<protocol>TCP|UDP|SCTP)"
_URL = re.compile(
    r"(?P<protocol>tcp|udp|sctp)://(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<ipv4>[^:\[\]]+)):(?P<port>[0-9]+)"
)
_CONTAINER_NAME = re.compile(r"(?:/[A-Za-z0-9][A-Za-z0-9_.-]*){2}")


def service_links(environment: Mapping[str, str]) -> frozenset[str]:
    """The names of the variables that are service links of services called `loragate` or `loragate-…`."""
    links = {name for name, value in environment.items() if _has_the_form(name, value)}
    return frozenset(links | _docker_extras(environment, links))


def ignored_service_links() -> list[str]:
    """The service links in this process's environment, which `settings.load` ignores, by name."""
    return sorted(service_links(os.environ))


def _has_the_form(name: str, value: str) -> bool:
    for pattern, holds in _FORMS:
        found = pattern.fullmatch(name)
        if found and holds(value, found):
            return True
    return False


def _docker_extras(environment: Mapping[str, str], links: set[str]) -> set[str]:
    """`<ALIAS>_NAME=/container/alias`, and the other container's own variables as `<ALIAS>_ENV_<name>`.

    Their form alone says too little, so they count only beside the alias's URL, `<ALIAS>_PORT`.
    """
    linked = {
        name.removesuffix("_PORT") for name in links if name.endswith("_PORT") and "://" in environment[name]
    }
    aliases = [alias for alias in linked if _CONTAINER_NAME.fullmatch(environment.get(f"{alias}_NAME", ""))]
    return {
        name
        for name in environment
        if any(name == f"{alias}_NAME" or name.startswith(f"{alias}_ENV_") for alias in aliases)
    }


def _is_address(value: str, found: re.Match[str]) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def _is_port(value: str, found: re.Match[str]) -> bool:
    return re.fullmatch(r"[1-9][0-9]{0,4}", value) is not None and int(value) <= 65535


def _is_url(value: str, found: re.Match[str]) -> bool:
    url = _URL.fullmatch(value)
    if url is None or not _is_port(url["port"], found):
        return False
    try:
        address = ipaddress.ip_address(url["ipv6"] or url["ipv4"])
    except ValueError:
        return False
    return (address.version == 6) == (url["ipv6"] is not None) and "%" not in value


def _is_url_of_port(value: str, found: re.Match[str]) -> bool:
    same = value.startswith(f"{found['protocol'].lower()}://") and value.endswith(f":{found['port']}")
    return same and _is_url(value, found)


def _is_named_protocol(value: str, found: re.Match[str]) -> bool:
    return value == found["protocol"].lower()


def _is_named_port(value: str, found: re.Match[str]) -> bool:
    return value == found["port"] and _is_port(value, found)


_FORMS: tuple[tuple[re.Pattern[str], Callable[[str, re.Match[str]], bool]], ...] = (
    (re.compile(rf"{_SERVICE}_SERVICE_HOST"), _is_address),
    (re.compile(rf"{_SERVICE}_SERVICE_PORT(?:_[A-Z0-9_]+)?"), _is_port),
    (re.compile(rf"{_SERVICE}_PORT"), _is_url),
    (re.compile(_ONE_PORT), _is_url_of_port),
    (re.compile(rf"{_ONE_PORT}_PROTO"), _is_named_protocol),
    (re.compile(rf"{_ONE_PORT}_PORT"), _is_named_port),
    (re.compile(rf"{_ONE_PORT}_ADDR"), _is_address),
)

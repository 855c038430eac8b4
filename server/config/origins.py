"""The origins of web pages that may call the server from a browser, as vLLM's `--allowed-origins` takes them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from server.config.json_settings import parse_json

#: As browsers write the header Origin: scheme, host in lower case, and a port that is not the scheme's own.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_FORM = "Write a JSON list of origins, for example '[\"https://app.example\"]', or '[\"*\"]' for all."


def parse_origins(value: Any) -> Any:
    """Decode text; any other value is returned unchanged. Raises: ValueError: the text is not a JSON list."""
    try:
        decoded = parse_json(value)
    except ValueError as error:
        raise ValueError(f"{error} {_FORM}") from error
    if isinstance(value, str) and not isinstance(decoded, list):
        raise ValueError(f"This is no list. {_FORM}")
    return decoded


def check_origins(origins: list[str]) -> list[str]:
    """The origins, each in the form in which browsers send it. Raises: ValueError."""
    for origin in origins:
        scheme, _, rest = origin.partition("://")
        if origin == "*":
            continue
        if not _ORIGIN.fullmatch(origin) or rest.endswith(f":{_DEFAULT_PORTS.get(scheme)}"):
            raise ValueError(
                f"{origin!r} is not an origin: it is scheme://host or scheme://host:port, in lower case, without "
                f"a path and without the scheme's own port. {_FORM}"
            )
    return origins


#: NOTE: without `NoDecode`, pydantic-settings decodes variables itself; its error names neither variable nor value.
Origins = Annotated[list[str], NoDecode, BeforeValidator(parse_origins), AfterValidator(check_origins)]

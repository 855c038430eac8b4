"""The origins of web pages that may call the server from a browser, as vLLM's `--allowed-origins` takes them."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from server.config.json_settings import parse_list

#: As browsers write the header Origin: scheme, host in lower case, and a port that is not the scheme's own.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_FORM = "Write a JSON list of origins, for example '[\"https://app.example\"]', or '[\"*\"]' for all."


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
Origins = Annotated[
    list[str], NoDecode, BeforeValidator(partial(parse_list, form=_FORM)), AfterValidator(check_origins)
]

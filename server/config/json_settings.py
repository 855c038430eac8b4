"""JSON as settings: text in a flag or environment variable, a table in a config file."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_settings import NoDecode


def parse_object(value: Any) -> Any:
    """Decode text; any other value is returned unchanged. Raises: ValueError: the text is not a JSON object."""
    decoded = parse_json_setting(value)
    if isinstance(value, str) and not isinstance(decoded, dict):
        raise ValueError(f"This must be a JSON object, not {type(decoded).__name__}.")
    return decoded


def parse_json_setting(value: Any) -> Any:
    """Decode text; any other value is returned unchanged. Raises: ValueError: the text is not JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise ValueError(f"This is not JSON: {error}.") from error


def parse_list(value: Any, form: str) -> Any:
    """Decode text; any other value is returned unchanged.

    Args:
        value: of the setting.
        form: a sentence that shows how it is written.

    Raises: ValueError: the text is not a JSON list.
    """
    try:
        decoded = parse_json_setting(value)
    except ValueError as error:
        raise ValueError(f"{error} {form}") from error
    if isinstance(value, str) and not isinstance(decoded, list):
        raise ValueError(f"This is no list. {form}")
    return decoded


#: NOTE: without `NoDecode`, pydantic-settings decodes variables itself; its error names neither variable nor value.
JsonObject = Annotated[dict[str, Any], NoDecode, BeforeValidator(parse_object)]

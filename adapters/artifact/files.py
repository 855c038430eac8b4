"""The files of an adapter folder: which ones are taken, and how they are opened and parsed."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from adapters.errors import ArtifactRefused

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TRAINING = "training.json"
WANTED = frozenset({CONFIG, WEIGHTS, TRAINING})
"""The files that are taken from a source; README, optimizer state and others are ignored."""
BESIDE = frozenset({"added_tokens.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"})
"""Files of which the beginning is read, to say that they are not used (`adapters.artifact.provenance`)."""
BESIDE_MAX_BYTES = 512 << 10

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_JSON_MAX_BYTES = 4 << 20
#: Values of a JSON file: Python parses them in one piece, and keeps the interpreter's lock for 10 ms.
JSON_MAX_VALUES = 100_000
_WHOLE_MODEL = re.compile(r"(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?|.+\.gguf")
_DEPTH_MAX = 2
_LISTED_MAX = 1000
_FOLDERS_SHOWN = 3


def list_names(folder: Path) -> set[str]:
    """Names of the files in a folder, and of those one or two folders below it, as `sub/name`.

    The latter only help `require_files` to say where the adapter is. Links are listed and not followed.
    Raises: OSError: the folder cannot be read.
    """
    with os.scandir(folder) as entries:
        listed = list(entries)
    names = {entry.name for entry in listed}
    if CONFIG in names:
        return names
    for place, folders, files in os.walk(folder):
        below = Path(place).relative_to(folder)
        names |= {(below / name).as_posix() for name in files}
        if len(below.parts) == _DEPTH_MAX or len(names) > _LISTED_MAX:
            folders.clear()
    return names


def require_files(names: Collection[str]) -> None:
    """Check that a folder with these files can be an adapter. Raises: ArtifactRefused.

    `names` may also have files in sub-folders, as `sub/name`: the message then says where the adapter is.
    """
    if WEIGHTS in names and CONFIG in names:
        return
    pickled = sorted(name for name in names if name.startswith("adapter_model") and name.endswith(_PICKLES))
    if pickled and WEIGHTS not in names:
        raise ArtifactRefused(
            f"{pickled[0]} is a pickle, which can run code when loaded; "
            f"save the adapter again with safe_serialization=True, which writes {WEIGHTS}."
        )
    if any(name.startswith("adapter_model-") and name.endswith(".safetensors") for name in names):
        raise ArtifactRefused(f"The weights are split over several files; save them as one {WEIGHTS}.")
    folders = sorted(name.removesuffix(f"/{CONFIG}") for name in names if name.endswith(f"/{CONFIG}"))
    if folders and WEIGHTS not in names:
        shown = ", ".join(printable_value(folder) for folder in folders[:_FOLDERS_SHOWN])
        more = f" and {len(folders) - _FOLDERS_SHOWN} more" if len(folders) > _FOLDERS_SHOWN else ""
        raise ArtifactRefused(
            f"There is no adapter in this folder itself, but in its sub-folder{'s' * (len(folders) > 1)} {shown}"
            f"{more}; give the path of {'one of them' if len(folders) > 1 else 'that folder'}."
        )
    if any(_WHOLE_MODEL.fullmatch(name) for name in names):
        raise ArtifactRefused(
            f"This is a whole model (as merging an adapter makes it), not an adapter: there is no {WEIGHTS}; save "
            "the PEFT model itself with save_pretrained, before merge_and_unload, or serve this model with --model."
        )
    if WEIGHTS not in names:
        raise ArtifactRefused(f"There is no {WEIGHTS}; give the folder that PEFT's save_pretrained wrote.")
    raise ArtifactRefused(f"There is no {CONFIG} beside {WEIGHTS}; give the folder that PEFT wrote.")


def open_plain(path: Path) -> BinaryIO:
    """Open a regular file for reading; never follow a link. Raises: ArtifactRefused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise ArtifactRefused(
                f"{path.name} is a link; copy the folder with its contents (cp -rL) and give the copy."
            ) from error
        raise ArtifactRefused(f"{path.name} cannot be opened; check that it is a readable file.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactRefused(f"{path.name} is not a regular file; give the folder that PEFT wrote.")
    return os.fdopen(descriptor, "rb")


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON object. Raises: ArtifactRefused."""
    with open_plain(path) as file:
        text = file.read(_JSON_MAX_BYTES + 1)
    if len(text) > _JSON_MAX_BYTES:
        raise ArtifactRefused(
            f"{path.name} is larger than {_JSON_MAX_BYTES >> 20} MiB; it should be a few kB."
        )
    return parse_json_file(text, path.name)


def parse_json_file(text: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object, strictly: no duplicate names, no NaN. Raises: ArtifactRefused."""
    if (values := text.count(b",") + 1) > JSON_MAX_VALUES:
        raise ArtifactRefused(
            f"{name} has up to {values} values; at most {JSON_MAX_VALUES} are accepted. Save the adapter again."
        )
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactRefused(f"{name} is not readable as JSON; save the adapter again.") from error
    if not isinstance(value, dict):
        raise ArtifactRefused(
            f"{name} must be a JSON object, found {type(value).__name__}; save the adapter again."
        )
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate name")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


#: Refuses duplicate names and NaN with a ValueError.
DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def printable_value(value: object, limit: int = 60) -> str:
    """A value from an adapter's file in a form for messages: printable characters only, and short."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"

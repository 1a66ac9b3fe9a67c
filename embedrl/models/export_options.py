"""`embedrl_config.json`: what an exported folder says in embedrl's own words, having no place for it elsewhere."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from embedrl.errors import CheckpointError

OPTIONS_FILE = "embedrl_config.json"
_FORMAT = 1


def write_options(out: Path, model: str, options: dict[str, Any]) -> None:
    """Write the file.

    Args:
        out: The exported folder.
        model: Public name of the model's class, such as `embedrl.QwenVLBackbone`.
        options: What the model needs besides its weights to read as it did in training; plain values.
    """
    content = {"format": _FORMAT, "model": model, "options": options}
    (out / OPTIONS_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_options(path: str) -> tuple[str, dict[str, Any]]:
    """Read the file of a folder or of a repository on the Hugging Face Hub.

    Args:
        path: The folder, or the Hub name.

    Returns:
        The model's class and its options; empty if there is no such file.

    Raises:
        CheckpointError: If the file is broken, or of a later format.
    """
    folder = Path(path).expanduser()
    file: Any = folder / OPTIONS_FILE
    if not folder.is_dir():
        file = None
        with suppress(OSError):  # no such repository: who reads its weights says so
            file = cached_file(
                path,
                OPTIONS_FILE,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
    if file is None or not Path(file).is_file():
        return "", {}
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        kind, options, version = content["model"], content["options"], content["format"]
        if not isinstance(kind, str) or not isinstance(options, dict):
            raise TypeError("model must be a text, options a mapping")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{file}: broken ({error!r}): export the model again") from error
    if version != _FORMAT:
        raise CheckpointError(f"{file}: of format {version!r}, this version reads {_FORMAT}: update embedrl")
    return kind, options

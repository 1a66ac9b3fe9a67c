"""Messages of libraries that a user can do nothing about, silenced by their text; all others are shown."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's use of torch
    r"`is_gradient_checkpointing` is deprecated",  # peft's use of transformers
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen parts are
    # Pillow's words about metadata that it cannot read, in pictures that it can.
    r"Corrupt EXIF data|Tag data larger than file|Truncated File Read|Metadata Warning",
    # What writes checkpoints has its state in them; `validate` and `test` write none.
    r"Be aware that when using `ckpt_path`.*following callbacks: \[(\"(Model|Last)Checkpoint\{[^\"]*\}\"(, )?)+\]",
)
"""How the texts of the warnings begin, as regular expressions."""

LOGS = {
    "lightning.pytorch.utilities.rank_zero": (
        r"Tip: .* try installing \[(litlogger|litmodels)\]",
        r"^TPU available: False",
    ),
    "PIL.TiffImagePlugin": (r"^More samples per pixel than can be decoded",),  # comes as an exception, too
    "transformers.modeling_utils": (r"BertModel LOAD REPORT",),  # of a tower whose pooler is not used
}
"""The names of loggers, and what the messages to leave out contain, as regular expressions."""

BARS = ("Loading weights", "Writing model shards")
"""The titles of transformers' progress bars over a model's tensors and files."""


class _Without(logging.Filter):
    """Leaves out messages by their text."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        super().__init__()
        self._found = re.compile("|".join(patterns)).search

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a message."""
        return not self._found(record.getMessage())


_FILTERS = {name: _Without(patterns) for name, patterns in LOGS.items()}


def silence_messages() -> None:
    """Leave out the messages of `WARNINGS` and `LOGS`. Imports none of the libraries; calling it again does nothing."""
    for pattern in WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)
    for name, without in _FILTERS.items():
        logging.getLogger(name).addFilter(without)


def silence_bars() -> None:
    """Leave out the progress bars of `BARS`, if transformers has been imported."""
    if "transformers" in sys.modules:
        importlib.import_module("transformers.utils.logging").set_tqdm_hook(_bar)


def _bar(make: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """One progress bar of transformers."""
    return make(*args, **({**options, "disable": True} if options.get("desc") in BARS else options))

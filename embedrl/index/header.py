"""What an index was made with: the model, what it reads of an item, and names under which it can be loaded again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embedrl.errors import ConfigError
from embedrl.evaluation.identity import render_identity
from embedrl.utils.public_names import public_path

if TYPE_CHECKING:
    from embedrl.api.embedder import Embedder

_FORMAT = 1  # of the table: raise it when a column changes its meaning


def make_header(embedder: Embedder, reasoned: bool, models: Mapping[str, str]) -> dict[str, Any]:
    """What is kept in the table's metadata.

    Args:
        embedder: The model.
        reasoned: Whether a Reasoner writes the items' T-CoTs.
        models: Names under which the command line can load the models again: `embedder`, `reasoner`, `style`.
    """
    return {
        "format": _FORMAT,
        "fingerprint": embedder.fingerprint,
        "dim": embedder.dim,
        "class": public_path(type(embedder.backbone)),
        "render": render_identity(embedder.render),
        "reasoned": reasoned,
        "models": dict(models),
    }


def check_format(header: Mapping[str, Any], uri: str) -> None:
    """See that this version reads such a table.

    Raises:
        ConfigError: If it does not.
    """
    if header.get("format") != _FORMAT:
        raise ConfigError(f"{uri}: an index of format {header.get('format')}: another version of embedrl made it")


def wrong_model(header: Mapping[str, Any], uri: str, embedder: Embedder) -> str:
    """Why a model is not the one that an index was made with, in one line; empty if it is."""
    if header["fingerprint"] == embedder.fingerprint:
        return ""
    made = header["models"].get("embedder") or header["class"]
    return (
        f"{uri} was made with {made} ({header['fingerprint'][:8]}, {header['dim']} numbers a vector), not with "
        f"{public_path(type(embedder.backbone))} ({embedder.fingerprint[:8]}, {embedder.dim}): open it with its own "
        "model, or make another index"
    )

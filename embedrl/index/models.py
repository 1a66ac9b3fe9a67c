"""The models of an index, loaded by the names that it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedrl.api.embedder import Embedder
    from embedrl.api.reasoner import Reasoner
    from embedrl.inference.reranker import Reranker
    from embedrl.tcot.prompts import Style


def load_models(names: Mapping[str, str], device: str) -> tuple[Embedder, Reasoner | None]:
    """The Embedder, and the Reasoner if there is one.

    Args:
        names: `embedder`, `reasoner`, `style`; see `Index.create`.
        device: Where to compute.
    """
    from embedrl.api.embedder import Embedder

    reasoner = load_reasoner(names, device) if "reasoner" in names else None
    return Embedder.from_pretrained(names["embedder"], device=device), reasoner


def load_reasoner(names: Mapping[str, str], device: str) -> Reasoner:
    """The Reasoner.

    Args:
        names: `reasoner`, `style`.
        device: Where to compute.
    """
    from embedrl.api.reasoner import Reasoner

    style: Style = "brief" if names.get("style") == "brief" else "full"
    return Reasoner.from_pretrained(names["reasoner"], device=device, style=style)


def load_reranker(name: str | None, device: str, style: Style | None = None, think: int = 0) -> Reranker | None:
    """A reranker, ready to score; None if none is named.

    Args:
        name: What `embedrl fit` or `export` left of it.
        device: Where to compute.
        style: Style of its question; None means `full`.
        think: Longest thought in tokens; 0: none.

    Raises:
        CheckpointError: If it cannot be read, or is no model that can rerank.
        ConfigError: If `think` is below 0, or there is no model to think.
    """
    from embedrl.api.options import choose_device
    from embedrl.training import trained_model

    trained_model.check_think(think, name)
    if name is None:
        return None

    reranker = trained_model.load_reranker(name, style or "full", think)
    reranker.build(choose_device(device))
    return reranker

"""`embedrl search`: what is most alike to a text or a picture in an index."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from embedrl.commands.index import Device, open_with_models
from embedrl.errors import ConfigError
from embedrl.index.hits import Hits
from embedrl.index.models import load_reranker
from embedrl.index.search import NPROBES, REFINE
from embedrl.metrics.confidence import ConfidenceGate, check_auto
from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import Style
from embedrl.utils.console import escaped, make_console, one_line, tell


def search(
    index: str,
    text: str | None = None,
    image: Path | None = None,
    k: int = 10,
    where: str | None = None,
    reason: bool | Literal["auto"] = False,
    hybrid: bool = False,
    exact: bool = False,
    nprobes: int = NPROBES,
    refine: int = REFINE,
    out: Path | None = None,
    embedder: str | None = None,
    reasoner: str | None = None,
    rerank: int = 0,
    reranker: str | None = None,
    think: int = 0,
    style: Style | None = None,
    device: Device = "auto",
    gate: ConfidenceGate | None = None,
) -> None:
    """Print the items of an index that are most alike to a query.

    Args:
        index: The index.
        text: The query's text.
        image: The query's picture.
        k: Number of items.
        where: Only rows for which this SQL condition over the index's columns holds, such as `year > 2020`.
        reason: Let the Reasoner write the query's T-CoT first; `auto`: if the raw query is not sure of its best item.
        hybrid: Rank by the words of `text`, too (reciprocal rank fusion with full text).
        exact: Compare with every vector even if there is an approximate index.
        nprobes: Lists of the approximate index that are looked through: more find more; see `embedrl index verify`.
        refine: This many times `k` whole vectors are read behind the approximate index and ranked.
        out: Draw the hits with their evidence into this picture.
        embedder: Where the index's model lies now, if not where it was.
        reasoner: A Reasoner; by default the one that the index was made with.
        rerank: Let a reranker read this many of the best items with the query, and put them in its order.
        reranker: A model that learned to rerank; see configs/world/reranker.yaml.
        think: For a reranker that thinks (configs/world/reranker_thoughts.yaml): its longest thought in tokens.
        style: The prompt of Reasoner and reranker; by default the index's.
        device: Where to compute; auto takes a GPU if there is one.
        gate: `--reason auto`: who is not sure, such as `--gate.below 0.05`.

    Raises:
        ConfigError: If a flag is wrong, there is no query, or the model is another.
        DataError: If there is no index, or the query's picture is broken.
    """
    if not (text and text.strip()) and image is None:
        raise ConfigError("nothing to search for: give --text or --image")
    if out is not None and out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(f"--out {out}: give a name that ends with .png, .jpg or .webp")
    check_auto(reason, gate)
    if rerank < 0 or bool(rerank) != bool(reranker):
        raise ConfigError(f"--rerank {rerank}: give a number above 0 and a model that reads so many items (--reranker)")
    opened = open_with_models(index, embedder, reasoner, device, bool(reason), style)
    style = style or opened.store.header["models"].get("style")
    read = load_reranker(reranker, device, style, think)
    how: dict[str, Any] = {"reason": reason, "hybrid": hybrid, "exact": exact, "gate": gate}
    how |= {"nprobes": nprobes, "refine": refine}
    hits = opened.search(text, image, k=k, where=where, rerank=rerank, reranker=read, **how)
    if hits.tcot:
        sys.stdout.write(escaped(f"{hits.tcot}\n\n"))
    _print(hits)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        hits.show().save(out)
        tell(f"wrote {out}")


def _print(hits: Hits) -> None:
    reranked = any(hit.reranked is not None for hit in hits)
    table = Table("", "score", *(["reranked"] if reranked else []), "item", "what", "metadata")
    for rank, hit in enumerate(hits, 1):
        answer = parse(hit.tcot, hit.modality).tcot.answer if hit.tcot else ""
        metadata = ", ".join(f"{name}={value}" for name, value in hit.metadata.items())
        cells = (hit.path, answer or hit.text, metadata)
        scores = [f"{hit.score:.4f}"]
        if reranked:
            scores.append("" if hit.reranked is None else f"{hit.reranked:.4f}")
        table.add_row(str(rank), *scores, *(one_line(cell)[:200] for cell in cells))
    make_console().print(table)

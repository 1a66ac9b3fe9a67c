"""`embedrl index build|add|stats|compact|delete|verify`: an index of items that can be searched."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

from embedrl.data.on_bad import MAX_BAD, OnBadMode
from embedrl.errors import ConfigError, DataError
from embedrl.index.add import BATCH
from embedrl.index.ann import ANN_ROWS
from embedrl.index.index import Index
from embedrl.index.models import load_models
from embedrl.index.ray_engine import RayOptions, add_on_ray, ray_library
from embedrl.tcot.prompts import Style
from embedrl.utils.console import escaped, tell

Device = Literal["auto", "cpu", "cuda"]
Engine = Literal["local", "ray"]


def build(
    source: str,
    out: str = "index.lance",
    embedder: str | None = None,
    reasoner: str | None = None,
    style: Style = "full",
    text_column: str | None = None,
    image_column: str | None = None,
    on_bad: OnBadMode = "skip",
    max_bad: int = MAX_BAD,
    batch: int = BATCH,
    device: Device = "auto",
    engine: Engine = "local",
    ray: RayOptions | None = None,
) -> None:
    """Embed a folder or a table of items into an index that `embedrl search` reads.

    Started again after an interruption, it goes on behind the last batch that was written. An index that is there
    already is added to, if it is of the same model.

    Args:
        source: A folder of pictures and videos, or a CSV, TSV, JSON, JSONL or Parquet file.
        out: The folder of the index, or an address on an object store (`s3://...`).
        embedder: The model: a run's folder, a `.ckpt`, an export, the name of a model on the Hub or of the package.
        reasoner: A Reasoner, named alike: writes every item's T-CoT, which is stored and embedded with the item.
        style: The Reasoner's prompt: `full` explains the format; `brief` is for models that were trained on it, as the
            quickstart's.
        text_column: The column of a table with the items' texts; by default `text` if there is one.
        image_column: The column with the names of pictures, relative to the table's folder; by default one with a
            usual name (image, file_name, path ...). All other columns are kept as metadata.
        on_bad: An item that cannot be read or embedded: `raise`, or `skip`: left out, counted, and named in
            `skipped.jsonl` in the index's folder.
        max_bad: The most bad items that `skip` leaves out.
        batch: Items that are opened, embedded and written at once.
        device: Where to compute; auto takes a GPU if there is one.
        engine: `local`: in this process; `ray`: in actors of Ray, on one machine or many, which must see the source,
            the models and the index under the same names.
        ray: How `ray` computes.

    Raises:
        ConfigError: If a flag is wrong, or another model made the index that is there.
        DataError: If the source cannot be read.
        TooManyBadError: If too many items are bad.
        CheckpointError: If a model cannot be read.
    """
    if embedder is None:
        raise ConfigError("--embedder is missing: name the model that embeds, such as a run's folder")
    names = {"embedder": embedder, **({"reasoner": reasoner, "style": style} if reasoner else {})}
    options = _ray_options(engine, ray)
    index = Index.create(out, *load_models(names, "cpu" if options else device), names)
    done = _add(
        index, source, names, options, device,
        text_column=text_column, image_column=image_column, on_bad=on_bad, max_bad=max_bad, batch=batch,
    )  # fmt: skip
    tell(f"{out}: {done}")


def add(
    index: str,
    source: str,
    embedder: str | None = None,
    reasoner: str | None = None,
    text_column: str | None = None,
    image_column: str | None = None,
    on_bad: OnBadMode = "skip",
    max_bad: int = MAX_BAD,
    batch: int = BATCH,
    device: Device = "auto",
    engine: Engine = "local",
    ray: RayOptions | None = None,
) -> None:
    """Add more items to an index, with the models that it was made with.

    Args:
        index: The index.
        source: See `embedrl index build`.
        embedder: Where its model lies now, if not where it was.
        reasoner: The same of its Reasoner.
        text_column: See `embedrl index build`.
        image_column: See `embedrl index build`.
        on_bad: See `embedrl index build`.
        max_bad: See `embedrl index build`.
        batch: See `embedrl index build`.
        device: Where to compute; auto takes a GPU if there is one.
        engine: See `embedrl index build`.
        ray: See `embedrl index build`.
    """
    options = _ray_options(engine, ray)
    names = model_names(index, embedder, reasoner, Index.open(index).store.header["reasoned"])
    opened = Index.open(index, *load_models(names, "cpu" if options else device))
    done = _add(
        opened, source, names, options, device,
        text_column=text_column, image_column=image_column, on_bad=on_bad, max_bad=max_bad, batch=batch,
    )  # fmt: skip
    tell(f"{index}: {done}")


def _ray_options(engine: Engine, ray: RayOptions | None) -> RayOptions | None:
    """How Ray computes; None: this process does. Asked before models are loaded."""
    if engine == "local":
        if ray is not None:
            raise ConfigError("--ray.*: these are options of --engine ray: give it, too")
        return None
    ray_library()
    return ray or RayOptions()


def _add(
    index: Index, source: str, names: dict[str, str], options: RayOptions | None, device: Device, **how: Any
) -> str:
    """Add a source in this process, or with options of Ray in its actors; returns what was done."""
    if options is None:
        done = index.add(source, **how)
    else:
        done = add_on_ray(index, source, names, options, device=device, **how)
    return f"{done}; {len(index):,} rows"


def stats(index: str) -> None:
    """Print what an index holds: rows, model, columns, size.

    Args:
        index: The index.
    """
    sys.stdout.write(escaped(json.dumps(Index.open(index).stats(), indent=1, ensure_ascii=False)) + "\n")


def compact(index: str, ann_rows: int = ANN_ROWS) -> None:
    """Join an index's small files, bring it up to date, delete versions older than an hour.

    Args:
        index: The index.
        ann_rows: Build the approximate (ANN) index from this many rows on; below, searches are exact.
    """
    opened = Index.open(index)
    opened.compact(ann_rows)
    facts = opened.stats()
    tell(f"{index}: {facts['rows']:,} rows in {facts['files']} files, {facts['search']} search")


def delete(index: str, where: str | None = None, keys: list[str] | None = None) -> None:
    """Delete rows of an index.

    Args:
        index: The index.
        where: Rows for which this SQL condition holds, such as `path LIKE 'old/%'`.
        keys: Rows with these content keys.
    """
    opened = Index.open(index)
    tell(f"{index}: {opened.delete(where, keys):,} rows deleted, {len(opened):,} left")


def verify(index: str, embedder: str | None = None, queries: int = 100, device: Device = "auto") -> None:
    """Read every row of an index, and measure its approximate search against the exact one.

    Args:
        index: The index.
        embedder: A model; it is compared with the one that the index was made with.
        queries: How many searches the recall is measured over.
        device: Where to load the model.

    Raises:
        DataError: If something is wrong with it.
    """
    opened = Index.open(index)
    report = opened.verify(queries, None if embedder is None else load_models({"embedder": embedder}, device)[0])
    sys.stdout.write(escaped(f"{report}\n"))
    if not report.ok:
        raise DataError(f"{index} is not sound: see above; delete the rows and add their items again")


def open_with_models(
    index: str, embedder: str | None, reasoner: str | None, device: Device, reason: bool, style: Style | None = None
) -> Index:
    """An index with the models that it was made with.

    Args:
        index: The index.
        embedder: Where the model lies; None means where it was.
        reasoner: The same of the Reasoner.
        device: Where to compute.
        reason: Whether the Reasoner is needed.
        style: The Reasoner's prompt; None means the index's.

    Raises:
        ConfigError: If nobody knows where a model lies, or it is another.
    """
    return Index.open(index, *load_models(model_names(index, embedder, reasoner, reason, style), device))


def model_names(
    index: str, embedder: str | None, reasoner: str | None, reason: bool, style: Style | None = None
) -> dict[str, str]:
    """Names of the models that an index was made with; see `open_with_models`."""
    names = dict(Index.open(index).store.header["models"])
    given = {"embedder": embedder, "reasoner": reasoner, "style": style}
    names |= {name: value for name, value in given.items() if value is not None}
    for name, needed in (("embedder", True), ("reasoner", reason)):
        if needed and name not in names:
            raise ConfigError(f"--{name} is missing: {index} does not say where its model lies")
    if not reason:
        names.pop("reasoner", None)
    return names

"""`embedrl data import`: from the files that people have to a folder that training takes."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Literal

import yaml

from embedrl.commands.recipes import recipes_folder
from embedrl.construction.stats import count, pairs_table
from embedrl.data.images import is_picture
from embedrl.data.mix import MixRow
from embedrl.data.on_bad import MAX_BAD, OnBadMode
from embedrl.data.video import is_video
from embedrl.errors import ConfigError, DataError
from embedrl.pairs.collection import PairSet, SplitBy, SplitPairs
from embedrl.pairs.folders import from_folder, from_videos
from embedrl.pairs.hf_dataset import from_dataset
from embedrl.pairs.mix_folder import MIX, SHEET, SKIPPED, TASKS, batch_size, check_out
from embedrl.pairs.pages import from_pages
from embedrl.pairs.shards import from_webdataset
from embedrl.pairs.table_rows import SUFFIXES
from embedrl.pairs.tables import from_csv
from embedrl.utils.console import escaped, make_console
from embedrl.utils.input_files import visible_below

Kind = Literal["table", "pictures", "videos", "pages", "dataset", "webdataset"]

RECIPE = "configs/own_data.yaml"


def import_data(
    source: Path,
    out: Path = Path("mix"),
    captions: str | None = None,
    image: str | None = None,
    text: str | None = None,
    id: str | None = None,
    group: str | None = None,
    split: str | None = None,
    kind: Kind | None = None,
    validation: float = 0.1,
    by: SplitBy = "caption",
    seed: int = 0,
    both_directions: bool = True,
    copy: bool = False,
    dpi: int = 100,
    name: str | None = None,
    on_bad: OnBadMode = "raise",
    max_bad: int = MAX_BAD,
) -> None:
    """Turn pictures, videos or PDF pages with captions into a mix to train on, and print the command that trains.

    Writes `train.jsonl`, `validation.jsonl`, `mix.yaml`, `validation.yaml` and `contact_sheet.png` to `out`, whole or
    not at all. Pictures stay where they are.

    Args:
        source: A folder of pictures, of videos or of PDF files; a table (.csv, .tsv, .jsonl, .json, .parquet); a folder
            of the `datasets` library; webdataset shards (.tar), or a folder of them; a PDF file.
        out: The folder to write: new, empty, or equal to what would be written.
        captions: A table with the captions of a folder; or where else they are. Of pictures and videos: txt (the first
            line of a .txt file beside each) or names (the files' names). Of PDFs: titles (the outline) or text (the
            pages' words). Without it: the one table in the folder, else txt, else names; titles, else text.
        image: The table's column with the paths of pictures; without it, one with a usual name.
        text: The table's column, or field of webdataset's .json, with the captions; without it, one with a usual name.
        id: The table's column with ids; without it, they are made from caption and picture.
        group: A column of the table whose equal values stay on one side of the split, such as a product's number.
        split: The split of a folder of the `datasets` library.
        kind: What the source holds; without it, the suffixes of its files decide.
        validation: Share of the pairs to validate with; 0 validates with none.
        by: caption: neither a caption nor a picture stands on both sides; picture: captions may.
        seed: Seed of the split.
        both_directions: Whether to train and score from picture to caption, too.
        copy: Whether to copy the pictures into `out`.
        dpi: Pixels per inch of PDF pages.
        name: Name of the data set; without it, that of the source.
        on_bad: A bad row or picture: stop, or leave it out, count it and name it in `skipped.jsonl`.
        max_bad: The most rows that `skip` leaves out.

    Raises:
        ConfigError: If an option does not fit the source, or `out` holds something else.
        DataError: If the source or a row cannot be read, or no pair is left.
        TooManyBadError: If more than `max_bad` rows are bad.
    """
    check_out(out)
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"--out {out}: lies in {source}, and would be read the next time: give a folder outside")
    kind = kind or kind_of(source)
    _check_options(kind, {"captions": captions, "image": image, "text": text, "id": id, "group": group, "split": split})
    bad = {"name": name or _name(source), "on_bad": on_bad, "max_bad": max_bad}
    if kind == "table" or (kind in ("pictures", "videos") and _is_table(captions, image, text, id, group)):
        table, root = (source, None) if kind == "table" else (Path(captions or _table_in(source)), source)
        pairs = from_csv(table, image, text, root, id, group, **bad)  # type: ignore[arg-type]
    elif kind == "dataset":
        pairs = from_dataset(source, image, text, split, id, group, **bad)  # type: ignore[arg-type]
    elif kind == "webdataset":
        pairs = from_webdataset(source, text, **bad)  # type: ignore[arg-type]
    elif kind == "pages":
        pairs = from_pages(source, _choice(captions, "titles", "text"), dpi, **bad)  # type: ignore[arg-type]
    else:
        read = from_folder if kind == "pictures" else from_videos
        pairs = read(source, _choice(captions, "txt", "names"), **bad)  # type: ignore[arg-type]
    halves = pairs.split(by, validation, seed)
    halves.write(out, copy, both_directions)
    _report(pairs, halves, out, both_directions)


def kind_of(source: Path) -> Kind:
    """What a source holds, by the suffixes of its files.

    Args:
        source: A file or a folder.

    Raises:
        DataError: If it is missing or holds nothing of any kind, or of several kinds.
    """
    if source.is_dir():
        if (source / "dataset_info.json").is_file() or (source / "dataset_dict.json").is_file():
            return "dataset"
        files = (path for path in visible_below(source, "*") if path.is_file())
        kinds = Counter[Kind](kind for path in files if (kind := _kind_of_file(path)) and kind != "table")
        if len(kinds) > 1:
            listed = ", ".join(f"{number} files of {kind}" for kind, number in kinds.most_common())
            raise DataError(f"{source} holds {listed}: say which to read by --kind")
        if not kinds:
            raise DataError(f"{source} holds no pictures, videos, .pdf or .tar files: check the path")
        return next(iter(kinds))
    if not source.exists():
        raise DataError(f"{source} does not exist: check the path")
    kind = _kind_of_file(source)
    if kind is None or kind in ("pictures", "videos"):
        known = f"{', '.join(SUFFIXES)}, .tar or .pdf"
        raise DataError(f"{source}: give a folder, or a file that ends with {known}")
    return kind


def _kind_of_file(path: Path) -> Kind | None:
    by_suffix: dict[str, Kind] = {".tar": "webdataset", ".pdf": "pages", **dict.fromkeys(SUFFIXES, "table")}
    if is_picture(path.name):
        return "pictures"
    return "videos" if is_video(path.name) else by_suffix.get(path.suffix.lower())


_OPTIONS: dict[str, tuple[Kind, ...]] = {
    "captions": ("pictures", "videos", "pages"),
    "image": ("table", "pictures", "videos", "dataset"),
    "text": ("table", "pictures", "videos", "dataset", "webdataset"),
    "id": ("table", "pictures", "videos", "dataset"),
    "group": ("table", "pictures", "videos", "dataset"),
    "split": ("dataset",),
}


def _check_options(kind: Kind, given: dict[str, str | None]) -> None:
    for option, value in given.items():
        if value is not None and kind not in _OPTIONS[option]:
            raise ConfigError(f"--{option} {value}: is of no use for a source of {kind}: leave it out")


def _is_table(captions: str | None, *columns: str | None) -> bool:
    """Whether the captions of a folder stand in a table that was named, or whose columns were."""
    if captions in ("txt", "names"):
        if any(columns):
            raise ConfigError(f"--captions {captions}: has no columns: leave --image, --text, --id and --group out")
        return False
    return captions is not None or any(columns)


def _table_in(folder: Path) -> str:
    tables = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    if len(tables) != 1:
        raise ConfigError(f"{folder} holds {len(tables)} tables: name the one with the captions by --captions")
    return str(tables[0])


def _choice(captions: str | None, *choices: str) -> str:
    if captions is None:
        return "auto"
    if captions not in choices:
        raise ConfigError(f"--captions {captions}: choose {' or '.join(choices)}")
    return captions


def _name(source: Path) -> str:
    """The name of a data set: that of its folder, or of its file without suffix."""
    path = source.absolute()
    return path.stem if path.is_file() else path.name


def _report(pairs: PairSet, halves: SplitPairs, out: Path, both_directions: bool) -> None:
    """Say what was read and written, and how to train on it."""
    notes = [f"{len(pairs):,} pairs, captions from {pairs.origin}"]
    if pairs.repeated:
        notes.append(f"{pairs.repeated:,} that repeat another are left out")
    if pairs.left_out:
        causes = Counter(sample.cause for sample in pairs.left_out)
        counts = ", ".join(f"{cause} {number:,}" for cause, number in causes.most_common())
        notes.append(f"{len(pairs.left_out):,} bad ones are left out ({counts}): {out / SKIPPED} names them")
    console = make_console()
    console.print(escaped(f"{pairs.name}: {'; '.join(notes)}"), markup=False, highlight=False, soft_wrap=True)
    rows = [MixRow(half, name=name) for half, name in zip(halves, ("train", "validation"), strict=True) if half.items]
    console.print(pairs_table([count(row) for row in rows]))
    sys.stdout.write(escaped(f"Wrote {out}; have a look at {out / SHEET}\n"))
    sys.stdout.write(escaped(f"Next: {shlex.join(fit_command(halves, out))}\n"))


def fit_command(halves: SplitPairs, out: Path) -> list[str]:
    """The words of the command that trains on a folder that was written.

    Args:
        halves: What was written.
        out: The folder.
    """
    words = ["embedrl", "fit", "--config", RECIPE, "--data.mix", str(out / MIX)]
    if halves.validation.items:
        words += ["--data.val", str(out / TASKS)]
    recipe = yaml.safe_load((recipes_folder().parent / RECIPE).read_text(encoding="utf-8"))
    usual = recipe["data"]["init_args"]["batch_size"]
    size = batch_size(len(halves.train), usual)
    if size != usual:
        words += [word for key in ("batch_size", "sub_batch_size") for word in (f"--data.{key}", str(size))]
    return words

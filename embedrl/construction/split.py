"""`embedrl split`: the pairs of the Embedder, and those that EG-RL rolls out. Source: Embed-RL §3.2, C, Table 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from embedrl.construction.rows import JOURNALS, PairWriter, check_place, write_mix
from embedrl.construction.sample import equal_distances
from embedrl.data.json_stream import iter_rows
from embedrl.data.mix import MixRow, check_labels
from embedrl.data.on_bad import FILE, MAX_BAD, OnBad, OnBadMode
from embedrl.errors import ConfigError, DataError
from embedrl.utils.console import data_set_column, make_console
from embedrl.utils.file_names import check_file_names


def split(
    mix: list[MixRow],
    out: Path,
    rl: dict[str, int],
    scores: Path | None = None,
    low: float = 0.1,
    high: float = 0.9,
    disjoint: bool = False,
    on_bad: OnBadMode = "raise",
    max_bad: int = MAX_BAD,
) -> None:
    """Draw the pairs of EG-RL at equal distances from the sets named in `rl`; the Embedder gets all pairs.

    Writes `embedder/mix.yaml` and `rl/mix.yaml` with their JSONL files to `out`. A data set of weight 0 is left out of
    the Embedder's mix, but EG-RL may draw from it.

    Args:
        mix: The data sets: the `mix.yaml` of `embedrl filter`, or any other.
        out: The folder to write to.
        rl: Number of pairs to draw from each hard data set, by its name.
        scores: JSON lines {dataset, id, success}: the share of a pair's rollouts that find their target, such as
            `embedrl.rl.RolloutSuccess` writes. Pairs between `low` and `high` are taken first, then those
            without a score, then the others: a group of rollouts that all succeed, or all fail, teaches EG-RL nothing.
        low: Least share of successful rollouts.
        high: Greatest share of successful rollouts.
        disjoint: Keep EG-RL's pairs out of the Embedder's, which the paper does not.
        on_bad: A bad row or picture: stop, or leave the pair out, count it and name it in `skipped.jsonl`.
        max_bad: The most bad rows and pictures that `skip` leaves out; one more stops the command.

    Raises:
        ConfigError: If a set is unknown or an option is out of its range.
        DataError: If a set has fewer pairs than are to be drawn, the scores name none of them, or a row or a picture is
            bad and `on_bad` is `raise`.
        TooManyBadError: If more than `max_bad` are.
    """
    bad = OnBad(on_bad, max_bad, "--")
    names = check_labels(mix)
    check_file_names(names, "--mix", JOURNALS)
    for kind in ("embedder", "rl"):
        check_place(mix, out / kind)
    for name, size in rl.items():
        if name not in names:
            raise ConfigError(f"--rl names {name}, which is not in the mix: {', '.join(names)}")
        if size < 1:
            raise ConfigError(f"--rl.{name} {size}: give 1 or more, or leave the set out")
    if not rl or not 0 <= low <= high <= 1:
        raise ConfigError(f"--rl has {len(rl)} sets, --low {low}, --high {high}: give a set, and 0 <= low <= high <= 1")
    success = read_scores(scores) if scores else {}
    if scores and not any(name in rl for name, _ in success):
        raise DataError(f"{scores}: no score is about {', '.join(rl)}: check the data sets' names")
    bad.keep(out / FILE)
    usable = {row.label: _usable(row, bad) for row in mix}
    drawn = {
        row.label: _draw(row, usable[row.label], rl[row.label], success, low, high) for row in mix if row.label in rl
    }
    table = Table(data_set_column(), "pairs", "Embedder", "EG-RL", *(["with a score in range"] if scores else []))
    written: dict[str, list[dict[str, object] | None]] = {"embedder": [], "rl": []}
    for row in mix:
        taken = set(drawn.get(row.label, ()))
        every = [i for i in usable[row.label] if not (disjoint and i in taken)] if row.weight else []
        for kind, picked, weight in (("embedder", every, row.weight), ("rl", drawn.get(row.label, []), 1.0)):
            if picked:
                written[kind].append(_write(row, picked, out / kind, weight, bad))
        good = [i for i in taken if low <= success.get((row.label, row.source[i].id), -1.0) <= high]
        counts = [len(row.source), len(every), len(taken), *([len(good)] if scores else [])]
        table.add_row(row.label, *(f"{number:,}" for number in counts))
    for kind, rows in written.items():
        write_mix(out / kind / "mix.yaml", rows)
    make_console().print(table)
    if bad.counts:
        causes = ", ".join(f"{cause} {count:,}" for cause, count in bad.counts.most_common())
        make_console().print(f"left out: {causes}; {bad.path} names them", highlight=False, soft_wrap=True)


def read_scores(path: Path) -> dict[tuple[str, str], float]:
    """Shares of successful rollouts by data set and pair.

    Args:
        path: JSON lines {dataset, id, success}.

    Raises:
        DataError: If the file is missing or a line is broken.
    """
    scores = {}
    for line, row in iter_rows(path):
        name, pair, share = (row.get(key) if isinstance(row, Mapping) else None for key in ("dataset", "id", "success"))
        if not isinstance(name, str) or not isinstance(pair, str) or isinstance(share, bool):
            raise DataError(f"{path}: line {line}: not {{dataset, id, success}}: {row!r:.80}")
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise DataError(f"{path}: line {line}: success is {share!r:.40}: give a share from 0 to 1")
        scores[name, pair] = float(share)
    return scores


def _usable(row: MixRow, bad: OnBad) -> Sequence[int]:
    """The rows that can be read; all of them if a bad one is to stop the command where it is met."""
    if bad.mode == "raise":
        return range(len(row.source))
    rows = []
    for index in range(len(row.source)):
        try:
            row.source[index]
            rows.append(index)
        except DataError as error:
            bad.skip(error, row.label, f"row {index}")
    return rows


def _draw(
    row: MixRow,
    usable: Sequence[int],
    size: int,
    success: Mapping[tuple[str, str], float],
    low: float,
    high: float,
) -> Sequence[int]:
    """Rows at equal distances, the preferred ones first; in order."""
    number = len(usable)
    if number < size:
        raise DataError(f"{row.label}: {size} pairs are to be drawn, it has {number}: lower --rl.{row.label}")
    if not success:
        return equal_distances(usable, size)
    groups: list[list[int]] = [[], [], []]
    for index in usable:
        share = success.get((row.label, row.source[index].id))
        groups[1 if share is None else 0 if low <= share <= high else 2].append(index)
    drawn: list[int] = []
    for group in groups:
        drawn += equal_distances(group, min(len(group), size - len(drawn)))
    return sorted(drawn)


def _write(row: MixRow, picked: Sequence[int], folder: Path, weight: float, bad: OnBad) -> dict[str, object] | None:
    writer = PairWriter(folder, row.label, row.source, weight)
    for index in picked:
        pair = row.source[index]
        try:
            writer.write(pair)
        except DataError as error:
            bad.skip(error, row.label, pair.id)
    return writer.close()

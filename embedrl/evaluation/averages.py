"""The averages that papers report, computed from the metrics of single data sets."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from embedrl.errors import ConfigError
from embedrl.evaluation.table import SetRow, load_table


def averages(benchmark: str, scores: Mapping[str, float]) -> dict[str, float | None]:
    """Every average of a benchmark's tables, in their order; None where a data set of it is missing.

    `mmeb_v2`: each group, each modality as the mean of its data sets, and `All` as the mean of the 78 (not of the three
    modalities). `uvrb`: `dataset AVG` is the mean of the 16, the groups are means of their data sets, `FG` of its 7 and
    `TXT` of its 12, and `ability AVG = mean(TXT, CMP, VIS, CG, FG, LC)`. The paper that introduced UVRB averages again
    instead: `FG (GVE) = mean(S, T, PR)`, `TXT (GVE) = mean(CG, FG (GVE), LC)`, and `ability AVG (GVE)` from these.

    Args:
        benchmark: `mmeb_v2` or `uvrb`.
        scores: The main metric of each data set, by its public name; page sets may carry the name of their old version.

    Raises:
        ConfigError: If a score belongs to no data set of the benchmark, or one data set has two.

    Source: VLM2Vec-V2 (arXiv 2507.04590), GVE (arXiv 2510.27571) Table 2, Embed-RL Tables 11 and 12.
    """
    table = load_table(benchmark)
    known = _by_current_name(table, scores)
    return _mmeb(table, known) if benchmark == "mmeb_v2" else _uvrb(table, known)


def missing(benchmark: str, scores: Mapping[str, float]) -> list[str]:
    """The data sets of a benchmark that have no score, in the table's order.

    Args:
        benchmark: `mmeb_v2` or `uvrb`.
        scores: As for `averages`.

    Raises:
        ConfigError: If a score belongs to no data set of the benchmark, or one data set has two.
    """
    table = load_table(benchmark)
    known = _by_current_name(table, scores)
    return [row.name for row in table if row.name not in known]


def _by_current_name(table: Sequence[SetRow], scores: Mapping[str, float]) -> dict[str, float]:
    """The scores by the names of the table: a misspelt name would otherwise drop out of a mean unnoticed."""
    names = {row.options.get("formerly", row.name): row.name for row in table} | {row.name: row.name for row in table}
    known: dict[str, float] = {}
    for name, score in scores.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise ConfigError(
                f"{table[0].benchmark} has no data set {name!r}" + (f": do you mean {near[0]!r}?" if near else "")
            )
        if names[name] in known:
            raise ConfigError(f"two scores for {names[name]}, of its old and its new version: give one")
        known[names[name]] = score
    return known


def _mmeb(table: Sequence[SetRow], scores: Mapping[str, float]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for modality in ("image", "video", "visdoc"):
        rows = [row for row in table if row.group.startswith(f"{modality}/")]
        for group in dict.fromkeys(row.group for row in rows):
            out[group] = _mean(scores.get(row.name) for row in rows if row.group == group)
        out[modality] = _mean(scores.get(row.name) for row in rows)
    out["All"] = _mean(scores.get(row.name) for row in table)
    return out


def _uvrb(table: Sequence[SetRow], scores: Mapping[str, float]) -> dict[str, float | None]:
    def of(*groups: str) -> float | None:
        return _mean(scores.get(row.name) for row in table if row.group in groups)

    out = {"dataset AVG": _mean(scores.get(row.name) for row in table)}
    out |= {"S": of("S"), "T": of("T"), "PR": of("PR"), "FG": of("S", "T", "PR")}
    out |= {"CG": of("CG"), "LC": of("LC"), "CMP": of("CMP"), "VIS": of("VIS"), "TXT": of("CG", "S", "T", "PR", "LC")}
    out["ability AVG"] = _mean(out[name] for name in ("TXT", "CMP", "VIS", "CG", "FG", "LC"))
    out["FG (GVE)"] = _mean(out[name] for name in ("S", "T", "PR"))
    out["TXT (GVE)"] = _mean(out[name] for name in ("CG", "FG (GVE)", "LC"))
    out["ability AVG (GVE)"] = _mean(out[name] for name in ("TXT (GVE)", "CMP", "VIS", "CG", "FG (GVE)", "LC"))
    return out


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean, or None if a value is missing."""
    scores = list(values)
    known = [value for value in scores if value is not None]
    return sum(known) / len(known) if len(known) == len(scores) else None

"""Whether an index is sound: its rows one by one, its model, and the recall of its ANN index."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from embedrl.errors import DataError, listed
from embedrl.index.ann import ENOUGH, AnnRecall, is_indexed, recalls
from embedrl.index.rows import open_thumbnail, present
from embedrl.index.store import Store

_NOISE = 0.1  # length of what is added to stored vectors, so that queries are not stored themselves
_LENGTH = 1e-3  # how far a vector's length may be from 1


@dataclass
class Verified:
    """What is wrong with an index; nothing, if all lists are empty.

    Attributes:
        rows: Rows that were read.
        duplicates: Keys that more than one row has.
        bad_vectors: Paths of rows whose vectors are NaN, infinite or not of length 1.
        bad_thumbnails: Paths of rows whose thumbnails cannot be read.
        missing_files: Files that are neither where they were nor at the same place seen from the index.
        wrong_model: Why the model is not the one that the index was made with; empty if it is, or none was given.
        recalls: Share of the 10 exact nearest rows that the ANN index returns, by default and with more thorough
            settings while it is below .95; empty if there is no such index.
        queries: Over how many queries: stored vectors with a little noise.
    """

    rows: int = 0
    duplicates: list[str] = field(default_factory=list)
    bad_vectors: list[str] = field(default_factory=list)
    bad_thumbnails: list[str] = field(default_factory=list)
    missing_files: list[str] = field(default_factory=list)
    wrong_model: str = ""
    recalls: list[AnnRecall] = field(default_factory=list)
    queries: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        lists = (self.duplicates, self.bad_vectors, self.bad_thumbnails, self.missing_files)
        return not any(lists) and not self.wrong_model

    def __str__(self) -> str:
        lines = [f"rows: {self.rows:,}"]
        for name in ("duplicates", "bad_vectors", "bad_thumbnails", "missing_files"):
            values = getattr(self, name)
            lines.append(f"{name.replace('_', ' ')}: {f'{len(values):,} ({listed(values)})' if values else 'none'}")
        lines.append(f"model: {self.wrong_model or 'as it should be'}")
        if not self.recalls:
            lines.append("ANN index: none, searches are exact")
        for one in self.recalls[:1]:
            lines.append(f"ANN index: recall@10 {one.share:.4f} against exact search, {self.queries} queries")
        lines += [f"  embedrl search {one.flags}: recall@10 {one.share:.4f}" for one in self.recalls[1:]]
        if self.recalls and self.recalls[-1].share < ENOUGH:
            lines.append("  embedrl search --exact true: recall@10 1")
        return "\n".join(lines)


def verify(store: Store, wrong_model: str = "", queries: int = 100, seed: int = 0) -> Verified:
    """Read every row, and measure the ANN index.

    Args:
        store: The table.
        wrong_model: What is wrong with the model.
        queries: How many searches the recall is measured over.
        seed: Seed of their choice.
    """
    report = Verified(wrong_model=wrong_model)
    rng = np.random.default_rng(seed)
    seen: set[bytes] = set()
    repeated: dict[str, None] = {}
    sample: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
    for batch in store.read(["key", "vector", "path", "files", "relative_files", "thumbnail"], rows=512):
        vectors = batch["vector"].flatten().to_numpy(zero_copy_only=False).reshape(-1, store.dim)
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        good = np.abs(lengths - 1) <= _LENGTH  # False of NaN
        for i, row in enumerate(batch.drop_columns(["vector"]).to_pylist()):
            report.rows += 1
            name = row["path"] or row["key"]
            key = bytes.fromhex(row["key"]) if len(row["key"]) == 32 else row["key"].encode()
            if key in seen:
                repeated[row["key"]] = None
            seen.add(key)
            if not good[i]:
                report.bad_vectors.append(name)
            elif len(sample) < queries:
                sample.append(vectors[i].copy())
            elif (at := int(rng.integers(report.rows))) < queries:  # each row is as likely (reservoir sampling)
                sample[at] = vectors[i].copy()
            report.missing_files += [
                file
                for file, seen_from_index in zip(row["files"] or [], row["relative_files"] or [], strict=True)
                if present(file, seen_from_index, store.uri) is None
            ]
            if row["thumbnail"] is not None:
                try:
                    open_thumbnail(row["thumbnail"], name)
                except DataError:
                    report.bad_thumbnails.append(name)
    report.duplicates = list(repeated)
    if sample and is_indexed(store):
        noisy = np.stack(sample) + _NOISE * rng.normal(size=(len(sample), store.dim)) / store.dim**0.5
        noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
        report.recalls, report.queries = recalls(store, noisy.astype(np.float32)), len(sample)
    return report

"""UVRB: texts, pictures and videos against videos, of the whole set or of ten candidates for each query."""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath

from embedrl.data.images import ImageFile
from embedrl.evaluation.readers.build import TaskBuilder, UnusableError
from embedrl.evaluation.readers.files import Row, frames, joined, picture, read_rows
from embedrl.evaluation.table import SetRow
from embedrl.types import Side


def read(build: TaskBuilder, root: Path) -> None:
    """Read `jsonl/{queries,corpus,instances}.jsonl`, `videos_frames/` and `images/` of a set.

    Queries: `id` and any of `text`, `image`, `video`; the text is cut to `max_characters`, prompt included. Corpus:
    `id`, `video`. Instances: `qid`, `pos[]`; a set that is ranked locally needs the query's other candidates too, as
    `neg[]`, or all of them as `candidates[]`: ranking its queries against the whole corpus gives figures that cannot be
    compared. The released code reads neither, so these two names are ours.

    Args:
        build: Takes the queries and candidates.
        root: The root of the local copy.

    Raises:
        DataError: As `read_task`.
    """
    folder = build.row.paths["rows"]
    for row in read_rows(root / folder / "jsonl" / "corpus.jsonl"):
        with build.unless_bad(row.where):
            build.candidate(row.name("id"), partial(_video, root, folder, row))
    relevance: dict[str, dict[str, float]] = {}
    pools: dict[str, list[str]] = {}
    for row in read_rows(root / folder / "jsonl" / "instances.jsonl"):
        with build.unless_bad(row.where):
            query, right = row.name("qid"), row.texts("pos")
            if build.row.ranking == "local" and query in pools:
                raise UnusableError("repeated query", f"query {query} has two rows of candidates: join them")
            if build.row.ranking == "local":
                pools[query] = _pool(build, row, right)
            relevance.setdefault(query, {}).update(dict.fromkeys(right, 1.0))
    asked = set()
    for row in read_rows(root / folder / "jsonl" / "queries.jsonl"):
        with build.unless_bad(row.where):
            query = row.name("id")
            asked.add(query)
            side = _query(build, root, folder, row)
            build.query(query, side, relevance.get(query, {}), pools.get(query))
    for query in sorted(relevance.keys() - asked):
        with build.unless_bad(f"instances of query {query}"):
            raise UnusableError("qrel of an unknown query", "the queries lack it: complete queries or instances")


def required_paths(row: SetRow, root: Path) -> list[Path]:
    """The files and folders without which a set cannot be read.

    Args:
        row: The data set.
        root: The root of the local copy.
    """
    folder = root / row.paths["rows"]
    tables = [folder / "jsonl" / f"{name}.jsonl" for name in ("queries", "corpus", "instances")]
    return [*tables, folder / "videos_frames"]


def _query(build: TaskBuilder, root: Path, folder: str, row: Row) -> Side:
    text = joined(build.row.instruction, row.text("text", ""))[: int(build.row.options["max_characters"])]
    image, video = row.text("image", ""), row.text("video", "")
    if image:
        return Side(text, (picture(root, f"{folder}/images", image),))
    return Side(text, frames=_frames(root, folder, video) if video else ())


def _pool(build: TaskBuilder, row: Row, right: list[str]) -> list[str]:
    """The names of a query's own candidates."""
    if "candidates" not in row.values and "neg" not in row.values:
        raise UnusableError(
            "query without its own candidates",
            f"it holds {', '.join(map(repr, row.values))}, but neither 'neg' nor 'candidates': this set ranks a query "
            f"against {build.row.options['pool_size']} candidates of its own, not the corpus: add them by their ids in "
            "corpus.jsonl, all of them as 'candidates' or all but 'pos' as 'neg'",
        )
    pool = row.texts("candidates") if "candidates" in row.values else right + row.texts("neg")
    pool, size = list(dict.fromkeys(pool)), int(build.row.options["pool_size"])
    if len(pool) != size or not set(right) <= set(pool):
        raise UnusableError(
            "query without its own candidates",
            f"{len(pool)} candidates, not {size} with the right ones among them: complete the row",
        )
    return pool


def _video(root: Path, folder: str, row: Row) -> Side:
    return Side(frames=_frames(root, folder, row.text("video")))


def _frames(root: Path, folder: str, video: str) -> tuple[ImageFile, ...]:
    if not PurePosixPath(video).name:
        raise UnusableError("unreadable row", f"'video' is {video!r}: give the video's file name")
    return frames(root, f"{folder}/videos_frames", str(PurePosixPath(video).with_suffix("")))

"""Document retrieval in BEIR's three tables: queries, corpus, and graded relevance."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from embedrl.evaluation.readers.build import TaskBuilder, UnusableError
from embedrl.evaluation.readers.files import folder_of, joined, picture, read_rows
from embedrl.evaluation.table import SetRow
from embedrl.types import Side


def read(build: TaskBuilder, root: Path) -> None:
    """Read `queries` (`query-id`, `query`), `corpus` (`corpus-id`) and `qrels` (`query-id`, `corpus-id`, `score`).

    Each is a folder of Parquet files or JSON lines, or one such file. A page is `<corpus-id>.png` in the folder of
    pictures; with the option `pages: hashed` its name is shortened (`page_name`). A score of 0 or less is no relevance;
    of several scores of one pair the largest counts.

    Args:
        build: Takes the queries and candidates.
        root: The root of the local copy.

    Raises:
        DataError: As `read_task`.
    """
    rows = root / build.row.paths["rows"]
    for row in read_rows(table_path(rows, "corpus"), ["corpus-id"]):
        with build.unless_bad(row.where):
            name = row.name("corpus-id")
            build.candidate(name, partial(_page, build, root, name))
    relevance: dict[str, dict[str, float]] = {}
    for row in read_rows(table_path(rows, "qrels"), ["query-id", "corpus-id", "score"]):
        with build.unless_bad(row.where):
            query, page, score = row.name("query-id"), row.name("corpus-id"), row.number("score")
            judged = relevance.setdefault(query, {})
            if score > 0:
                judged[page] = max(score, judged.get(page, 0.0))
    asked = set()
    for row in read_rows(table_path(rows, "queries"), ["query-id", "query"]):
        with build.unless_bad(row.where):
            query = row.name("query-id")
            asked.add(query)
            side = Side(joined(build.row.instruction, row.text("query")))
            build.query(query, side, relevance.get(query, {}))
    for query in sorted(relevance.keys() - asked):
        with build.unless_bad(f"qrels of query {query}"):
            raise UnusableError("qrel of an unknown query", "the queries lack it: complete queries or qrels")


def required_paths(row: SetRow, root: Path) -> list[Path]:
    """The files and folders without which a set cannot be read.

    Args:
        row: The data set.
        root: The root of the local copy.
    """
    tables = [table_path(root / row.paths["rows"], name) for name in ("corpus", "qrels", "queries")]
    return [*tables, folder_of(root, row.paths["images"])]


def page_name(corpus_id: str) -> str:
    """The file name that the public evaluation gives to a page of the VisRAG sets, whose ids can be very long."""
    path = Path(corpus_id)
    digest = hashlib.md5(corpus_id.encode(), usedforsecurity=False).hexdigest()
    return f"{corpus_id.removesuffix(path.suffix)[:50]}_{digest[:8]}{path.suffix}"


def page_file(row: SetRow, corpus_id: str) -> str:
    """The file of a page in the set's folder of pictures."""
    return page_name(corpus_id) if row.options.get("pages") == "hashed" else f"{corpus_id}.png"


def _page(build: TaskBuilder, root: Path, corpus_id: str) -> Side:
    file = page_file(build.row, corpus_id)
    try:
        page = picture(root, build.row.paths["images"], file)
    except UnusableError as error:
        raise UnusableError(error.cause, f"{error} (embedrl data pages writes those that the corpus holds)") from error
    return Side(build.row.target_instruction, (page,))


def table_path(folder: Path, name: str) -> Path:
    """The folder or file of one of the three tables."""
    for suffix in (".parquet", ".jsonl"):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    return folder / name

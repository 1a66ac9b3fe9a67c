"""`embedrl data pages`: document pages out of the Parquet files that hold them."""

from __future__ import annotations

import sys
from pathlib import Path

from embedrl.errors import DataError
from embedrl.evaluation.readers.beir import page_file, table_path
from embedrl.evaluation.readers.files import folder_of, read_rows
from embedrl.evaluation.table import SetRow, load_table
from embedrl.utils.atomic_files import replacing
from embedrl.utils.console import escaped
from embedrl.utils.file_names import resolve_new


def write_pages(root: Path, sets: list[str] | None = None) -> None:
    """Write the pages of MMEB-V2's document sets as picture files, where `embedrl eval` looks for them.

    Some document sets come without picture files: their corpus holds each page's bytes, which are written as they are.
    Existing pages are kept; a set without a local copy is skipped.

    Args:
        root: Folder with the local copy of MMEB-V2.
        sets: Write the pages of these sets only.

    Raises:
        DataError: If no local copy of a set is there, a row of a corpus holds no page, or its id cannot be the name of
            a file there.
    """
    rows = [row for row in load_table("mmeb_v2") if row.reader == "beir" and (sets is None or row.name in sets)]
    local_rows = [row for row in rows if folder_of(root, row.paths["rows"]).is_dir()]
    if not local_rows:
        asked = "MMEB-V2's document sets" if sets is None else ", ".join(sets)
        raise DataError(f"{root} holds no local copy of {asked}: check --root and --sets")
    for row in local_rows:
        written = _write(row, root)
        sys.stdout.write(escaped(f"{row.name}: wrote {written} pages to {folder_of(root, row.paths['images'])}\n"))


def _write(row: SetRow, root: Path) -> int:
    folder = folder_of(root, row.paths["images"])
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for page in read_rows(table_path(root / row.paths["rows"], "corpus"), ["corpus-id", "image"]):
        try:
            path = resolve_new(folder, page_file(row, page.name("corpus-id")))
        except DataError as error:
            raise DataError(f"{row.name}: {page.where}: corpus-id: {error}") from error
        if path.exists():
            continue
        image = page.values.get("image")
        content = image.get("bytes") if isinstance(image, dict) else None
        if not isinstance(content, bytes):
            raise DataError(f"{row.name}: {page.where}: 'image' holds no bytes: fetch the corpus with its pictures")
        path.parent.mkdir(parents=True, exist_ok=True)  # an id may hold `/`
        with replacing(path) as part:
            part.write_bytes(content)
        written += 1
    return written

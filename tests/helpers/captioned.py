"""Small pictures with captions, in the layouts that people have."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from PIL import Image

COLOURS = ["red", "green", "blue", "orange", "purple", "gray", "brown", "pink", "navy", "teal", "olive", "maroon"]


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(buffer, "png")
    return buffer.getvalue()


def pictures(folder: Path, count: int = 12) -> list[tuple[str, str]]:
    """Pictures of one colour each; their files' names and captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for colour in COLOURS[:count]:
        (folder / f"{colour}.png").write_bytes(png(colour))
    return [(f"{colour}.png", f"a {colour} card") for colour in COLOURS[:count]]


def table(path: Path, rows: list[tuple[str, str]], header: str = "file,caption") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in [header, *map(",".join, rows)]))
    return path


def shard(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return path

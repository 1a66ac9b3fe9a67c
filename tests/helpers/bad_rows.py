"""Sides as people have them, broken in every way, and data sets with some of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fake_data import IMAGE_TCOT, TEXT_TCOT
from PIL import Image

from embedrl.data.images import ImageFile
from embedrl.data.video import list_frames
from embedrl.types import Modality, Pair, Side

VIDEO_TCOT = '<thinking>it moves {"key_frames": [1]}</thinking><rethink>r</rethink><answer>moves</answer>'
SIZE, BAD = 8, 3


@dataclass(frozen=True)
class Strip:
    """A picture in memory that no model reads: nothing but the preprocessor sees its ratio."""

    name: str = "strip"

    def load(self):
        return Image.new("RGB", (1, 300))


def video_in(folder):
    return Side("q", frames=tuple(ImageFile(f"{folder}/{name}") for name in list_frames(folder)), tcot=VIDEO_TCOT)


CASES = {
    "truncated PNG": ("broken_picture", lambda f: Side("q", (ImageFile(f"{f}/cut.png"),), tcot=IMAGE_TCOT)),
    "missing file": ("missing_file", lambda f: Side("q", (ImageFile(f"{f}/gone.png"),), tcot=IMAGE_TCOT)),
    "1 x 300 file": ("thin_picture", lambda f: Side("q", (ImageFile(f"{f}/thin.png"),), tcot=IMAGE_TCOT)),
    "1 x 300 in memory": ("thin_picture", lambda f: Side("q", (Strip(),), tcot=IMAGE_TCOT)),
    "thin frame": ("thin_picture", lambda f: Side("q", (), (Strip(),) * 2, VIDEO_TCOT)),
    "long text": ("too_long", lambda f: Side("word " * 900, tcot=TEXT_TCOT)),
    "missing frame folder": ("missing_file", lambda f: video_in(f / "nowhere")),
    "empty frame folder": ("missing_file", lambda f: video_in(f / "empty")),
    "malformed T-CoT": ("bad_tcot", lambda f: Side("q", tcot="red")),
}


def write_pictures(folder: Path) -> None:
    Image.effect_noise((40, 30), 90).convert("RGB").save(folder / "good.png")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:200])
    Image.new("RGB", (1, 300)).save(folder / "thin.png")
    (folder / "empty").mkdir()


class Pictures:
    """Text and picture pairs; one row may be bad."""

    name, modality = "rows", Modality.IMAGE

    def __init__(self, folder: Path, bad=None, size=SIZE, rows=(BAD,)):
        self.folder, self.bad, self.size, self.rows = folder, bad, size, rows

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        query = Side(f"query {index}", (ImageFile(f"{self.folder}/good.png"),), tcot=IMAGE_TCOT)
        if self.bad is not None and index in self.rows:
            query = self.bad(self.folder)
        return Pair(query, Side(f"target {index}", tcot=TEXT_TCOT), "rows", str(index))

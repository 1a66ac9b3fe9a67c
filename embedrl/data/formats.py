"""The released file formats and the project's own as pairs. Source: Embed-RL §3.2, C."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedrl.data.arrow_pairs import SIDE, Record, RecordTable, get, make_side
from embedrl.data.gold import packed, read_gold
from embedrl.data.images import MAX_PIXELS
from embedrl.errors import DataError
from embedrl.tcot.schema import clean_text
from embedrl.types import Pair

_IMAGE_PLACE = re.compile(r"<\|image_\d+\|>\n?")
_VIDEO_PLACE = re.compile(r"\A\s*<video>\s*")
_BLANK = "blank.jpg"


class MMEBSource(RecordTable):
    """Image and document sets in MMEB style: `qry`, `qry_image_path`, `pos_text`, `pos_image_path`, ….

    `<|image_1|>` in a text marks the picture's place and is dropped: pictures come before the text (Eq. 2).

    Args:
        path: The JSON list.
        image_root: The folder that `*_image_path` are relative to.
        dataset: Name of the data set; None means the file's name without its suffix.
        max_pixels: Refuse larger pictures.
        cache_dir: Where the Arrow file goes; None means the cache folder of `datasets`.

    Raises:
        DataError: If the file or the folder is missing, the file is not JSON or empty, or every row is broken.
    """

    def __init__(
        self,
        path: str,
        image_root: str,
        dataset: str | None = None,
        max_pixels: int = MAX_PIXELS,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(path, image_root, dataset, max_pixels=max_pixels, cache_dir=cache_dir)

    def convert(self, row: Mapping[str, Any]) -> Record:
        """A row as a record; `neg_*` become a hard negative unless both are empty."""

        def side(text: str, image: str, tcot: str = "") -> Record:
            return make_side(_IMAGE_PLACE.sub("", text), [image] if image.strip() else [], tcot=tcot)

        query = side(get(row, "qry", str), get(row, "qry_image_path", str), get(row, "query_cot", str, ""))
        target = side(get(row, "pos_text", str), get(row, "pos_image_path", str), get(row, "pos_cot", str, ""))
        negative = side(get(row, "neg_text", str, ""), get(row, "neg_image_path", str, ""))
        negatives = [negative] if negative["text"] or negative["images"] else []
        return {"query": query, "target": target, "negatives": negatives}


# Which turn holds the text of the query and of the target.
_TURNS = {
    "llavahound_caption_retrieval": ("human", "gpt"),
    "llavahound_qa": ("human", "gpt"),
    "llavahound_video_retrieval": ("gpt", "human"),
}


class LlavaHoundSource(RecordTable):
    """Video sets in llavahound style: `dataset_name`, `qry` and `pos` with `conversations` and `video`.

    A `video` is a list of frame paths, a folder of frames, or `images/blank.jpg` for none.

    Args:
        path: The JSON list.
        frames_root: The folder that frame paths are relative to.
        dataset: Name of the data set; None means the file's name without its suffix.
        num_frames: Frames sampled from each video; `key_frames` count them from 1.
        max_pixels: Refuse larger frames.
        cache_dir: Where the Arrow file goes; None means the cache folder of `datasets`.

    Raises:
        DataError: If the file or the folder is missing, the file is not JSON or empty, or every row is broken.
    """

    def __init__(
        self,
        path: str,
        frames_root: str,
        dataset: str | None = None,
        num_frames: int = 8,
        max_pixels: int = MAX_PIXELS,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(path, frames_root, dataset, num_frames, max_pixels, cache_dir)

    def convert(self, row: Mapping[str, Any]) -> Record:
        """A row as a record; `dataset_name` decides whose turn is the query's text and whose the target's."""
        name = get(row, "dataset_name", str)
        if name not in _TURNS:
            raise DataError(f"'dataset_name' is {name!r:.60}: give one of {', '.join(_TURNS)}")
        query_turn, target_turn = _TURNS[name]
        query = _conversation(get(row, "qry", Mapping), query_turn, get(row, "query_cot", str, ""))
        return {
            "query": query,
            "target": _conversation(get(row, "pos", Mapping), target_turn, get(row, "pos_cot", str, "")),
        }


def _conversation(side: Mapping[str, Any], speaker: str, tcot: str) -> Record:
    turns = side.get("conversations")
    if not isinstance(turns, list):
        raise DataError("'conversations' is missing or no list of turns: check the format")
    texts = [get(turn, "value", str) for turn in turns if get(turn, "from", str) == speaker]
    video = side.get("video")
    frames = [clean_text(video)] if isinstance(video, str) else get(side, "video", list)
    frames = [name for name in frames if name.strip() and name.rpartition("/")[2] != _BLANK]
    return make_side(_VIDEO_PLACE.sub("", texts[0]) if texts else "", frames=frames, tcot=tcot)


class JsonlSource(RecordTable):
    """The project's own format, one pair per line: `id`, `query`, `target`, `negatives`, `score`, `negative_scores`.

    A side is an object with any of `text`, `images` (a list of paths), `frames` (a list of paths, or of one folder or
    one video file), `tcot`, `fps` and `gold`, the evidence that retrieval needs of the side as far as it is known: an
    object with any of `boxes`, `frames`, `spans` and `names` (see `embedrl.types.GoldEvidence`). `score` is a graded
    label of the pair, or a teacher's score; `negative_scores` holds one number for each negative. Both may be absent.
    `gain`, which `embedrl gain` writes, is for people: it is not read.

    Args:
        path: The JSON lines.
        root: The folder that paths are relative to; None means the file's folder.
        dataset: Name of the data set; None means the file's name without its suffix.
        num_frames: Frames sampled from each video; None means all that are listed, and 8 of a video file.
        max_pixels: Refuse larger pictures.
        cache_dir: Where the Arrow file goes; None means the cache folder of `datasets`.
        swap: Whether a target is the query and its query the target, so that one file trains both directions. Hard
            negatives belong to a row's own query, and are left out.

    Raises:
        DataError: If the file or the folder is missing, the file is not JSON or empty, or every row is broken.
    """

    def __init__(
        self,
        path: str,
        root: str | None = None,
        dataset: str | None = None,
        num_frames: int | None = None,
        max_pixels: int = MAX_PIXELS,
        cache_dir: str | None = None,
        swap: bool = False,
    ) -> None:
        super().__init__(path, root or str(Path(path).parent), dataset, num_frames, max_pixels, cache_dir)
        self.swap = swap

    def __getitem__(self, index: int) -> Pair:
        """The pair of a row; see `RecordTable`."""
        pair = super().__getitem__(index)
        if not self.swap:
            return pair
        return replace(pair, query=pair.target, target=pair.query, negatives=(), negative_scores=())

    def convert(self, row: Mapping[str, Any]) -> Record:
        """A row as a record; unknown keys are refused, since they may be misspelt."""
        _known(row, {"id", "query", "target", "negatives", "score", "negative_scores", "gain"})
        negatives = row.get("negatives") or []
        if not isinstance(negatives, list):
            raise DataError(f"'negatives' is {negatives!r:.60}, not a list of sides: check the format")
        scores = row.get("negative_scores") or []
        if not isinstance(scores, list) or len(scores) not in (0, len(negatives)):
            raise DataError(f"'negative_scores' is {scores!r:.60}: give a list of one number for each of the negatives")
        return {
            "id": get(row, "id", str),
            "query": _own_side(get(row, "query", Mapping)),
            "target": _own_side(get(row, "target", Mapping)),
            "negatives": [_own_side(side) for side in negatives],
            "score": None if row.get("score") is None else _number(row["score"], "score"),
            "negative_scores": [_number(score, "negative_scores") for score in scores],
        }


def _own_side(side: Any) -> Record:
    _known(side, set(SIDE))
    fps = side.get("fps", 2.0)
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= sys.float_info.max:
        raise DataError(f"'fps' is {fps!r:.60}: give a number above 0")
    record = make_side(get(side, "text", str, ""), get(side, "images", list, []), get(side, "frames", list, []))
    gold = packed(read_gold(side.get("gold")))
    return {**record, "tcot": get(side, "tcot", str, ""), "fps": float(fps), "gold": gold}


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise DataError(f"{key!r} holds {value!r:.60}: give a finite number")
    return float(value)


def _known(row: Any, keys: set[str]) -> None:
    if not isinstance(row, Mapping):
        raise DataError(f"{row!r:.60} is not an object: check the format")
    unknown = [key for key in row if key not in keys]
    if unknown:
        raise DataError(f"unknown key {unknown[0]!r}: give any of {', '.join(sorted(keys))}")

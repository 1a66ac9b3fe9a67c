"""Plain data that every layer shares. Imports neither torch nor PIL."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image


class Modality(StrEnum):
    """The modality of a side; it decides which cue its T-CoT must carry. Source: Embed-RL §3.2."""

    TEXT = "text"
    IMAGE = "image"
    VIDEO = "video"


class Role(StrEnum):
    """Which half of a pair a side is."""

    QUERY = "query"
    TARGET = "target"


@runtime_checkable
class ImageSource(Protocol):
    """A picture that is opened only when its pixels are needed.

    Attributes:
        name: Stable name of the content (a path below the data's root, or `world/...`): shown in errors. A source that
            is a file, whole and as it is, has a `path` too: files of one name below two roots are told apart by it. Of
            sources without a `path`, equal names mean equal pixels.
    """

    @property
    def name(self) -> str:
        """Stable name of the content."""
        ...

    def load(self) -> Image:
        """Return the picture as RGB at its original size.

        Raises:
            DataError: If it is missing, truncated, or larger than the decompression-bomb limit.
        """
        ...


DEFAULT_FPS = 2.0
"""Frames per second of a video, unless its row says otherwise. Source: Embed-RL B.3."""


def picture_key(source: ImageSource) -> bytes:
    """What tells a picture from every other one of this run: its name and, if it is a file, its path.

    Args:
        source: The picture; it is not read.
    """
    name, path = _bytes(source.name), getattr(source, "path", None)
    if path is None:
        return b"|\xfe" if name == b"|" else name  # `|` parts the pictures from the frames in `Side.key`
    return name + b"\xfe" + _bytes(os.fspath(path))


def _bytes(text: str) -> bytes:
    """A text without single NULs, which end a part of `Side.key`; UTF-8 never holds the bytes FE and FF."""
    return text.encode("utf-8", "surrogatepass").replace(b"\0", b"\0\xff")


@dataclass(frozen=True, slots=True)
class GoldEvidence:
    """The evidence of a side where it is known: what `embedrl.rl.EvidenceReward` compares a T-CoT with.

    None is unknown, and takes no part; an empty tuple is known to be none, such as an entity that no picture shows.

    Attributes:
        boxes: Boxes `(x1, y1, x2, y2)` in the side's first picture, 0..1000 of its width and height.
        frames: Key frames, positions in the sampled frames, 1-based.
        spans: Words and phrases of the side's text.
        names: What the evidence shows, in words that a T-CoT may use: `red star`, `person`.
    """

    boxes: tuple[tuple[float, float, float, float], ...] | None = None
    frames: tuple[int, ...] | None = None
    spans: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """One half of a pair: a query or a target.

    Attributes:
        text: The side's text (instruction included); may be empty when there is a picture or a video.
        images: The pictures or document pages, in order.
        frames: The sampled frames of one video, in order; empty if there is none.
        tcot: The T-CoT as text; empty if there is none.
        fps: Frames per second at which `frames` were sampled.
        gold: The side's evidence, if the data know it; no model reads it, and `key` leaves it out.
    """

    text: str = ""
    images: tuple[ImageSource, ...] = ()
    frames: tuple[ImageSource, ...] = ()
    tcot: str = ""
    fps: float = DEFAULT_FPS
    gold: GoldEvidence | None = None

    @property
    def modality(self) -> Modality:
        """Video if there are frames, else image if there are pictures, else text."""
        if self.frames:
            return Modality.VIDEO
        return Modality.IMAGE if self.images else Modality.TEXT

    @property
    def is_empty(self) -> bool:
        """True if the side holds neither text nor pixels."""
        return not (self.text.strip() or self.images or self.frames)

    @property
    def key(self) -> str:
        """What tells the side from every other one of this run, its T-CoT left out; no file is read for it.

        It holds the text, the pictures and frames in order (by name and, of files, by path), and the frames' rate. So
        sides of one key are alike; two copies of a file have two keys, and one `embedrl.tcot.store.content_hash`.
        """
        digest = hashlib.sha256()
        for part in (_bytes(self.text), *map(picture_key, self.images), b"|", *map(picture_key, self.frames)):
            digest.update(part + b"\0")
        if self.frames and self.fps != DEFAULT_FPS:
            digest.update(b"\xfe" + repr(float(self.fps)).encode())
        return digest.hexdigest()[:32]

    def with_tcot(self, tcot: str) -> Side:
        """The same side with another T-CoT."""
        return replace(self, tcot=tcot)


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and its target.

    Attributes:
        query: The query side.
        target: The side the query must retrieve.
        dataset: Name of the data set the pair comes from.
        id: Name of the pair within its data set.
        negatives: Hard negatives of the query; may be empty, and differ in number from pair to pair.
        score: Graded label of the pair, or a teacher's score; None if the data has none.
        negative_scores: The same of each hard negative with the query; empty if the data has none.
    """

    query: Side
    target: Side
    dataset: str
    id: str
    negatives: tuple[Side, ...] = ()
    score: float | None = None
    negative_scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RetrievalTask:
    """Queries, candidates and relevance judgements.

    Attributes:
        name: Name of the task, as it appears in `val/<name>/hit@1`.
        queries: The query sides.
        candidates: The pool, without duplicates.
        qrels: For each query (by position), the relevance of candidates (by position); absent means 0.
        pools: For each query, the positions of the candidates it is ranked against (local ranking);
            None ranks every query against the whole pool (global ranking).
        main_metric: The figure to report, e.g. `hit@1`.
        version: Version of the data, so that a figure can name what it belongs to.
        instruction: What the task asks for, in the words that its queries' texts already carry; empty if each query has
            its own.
        query_ids: A name for each query, as its data set names it; None means positions.
        candidate_ids: A name for each candidate, as its data set names it; None means positions.
    """

    name: str
    queries: Sequence[Side]
    candidates: Sequence[Side]
    qrels: Sequence[Mapping[int, float]]
    pools: Sequence[Sequence[int]] | None = None
    main_metric: str = "hit@1"
    version: str = "1"
    instruction: str = ""
    query_ids: Sequence[str] | None = None
    candidate_ids: Sequence[str] | None = None


Message = dict[str, Any]
"""One chat turn in Hugging Face's form: `{"role": ..., "content": [{"type": "text" | "image" | "video", ...}]}`."""

Chat = list[Message]


@dataclass(frozen=True, slots=True)
class Lesson:
    """One supervised example for a Reasoner: a prompt and the reply it should give.

    Attributes:
        chat: The prompt as user turns, pictures included.
        reply: The text whose tokens carry the loss.
        kind: The skill that is trained (`describe`, `point`, `answer`, `tcot` ...): metrics are kept per kind.
        gold: The reference values of the metrics: `boxes`, `frames`, `answer`.
    """

    chat: Chat
    reply: str
    kind: str
    gold: Mapping[str, Any] = field(default_factory=dict)

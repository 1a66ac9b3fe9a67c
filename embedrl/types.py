"""Plain data that every layer shares. Imports neither torch nor PIL."""

from __future__ import annotations

import hashlib
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
        name: Stable name of the content (a path, or `world/...`): shown in errors and hashed into `Side.key`.
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


@dataclass(frozen=True, slots=True)
class Side:
    """One half of a pair: a query or a target.

    Attributes:
        text: The side's text (instruction included); may be empty when there is a picture or a video.
        images: The pictures or document pages, in order.
        frames: The sampled frames of one video, in order; empty if there is none.
        tcot: The T-CoT as text; empty if there is none.
        fps: Frames per second at which `frames` were sampled.
    """

    text: str = ""
    images: tuple[ImageSource, ...] = ()
    frames: tuple[ImageSource, ...] = ()
    tcot: str = ""
    fps: float = 2.0

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
        """Content hash of text, pictures and frames (by name), without the T-CoT."""
        digest = hashlib.sha256()
        for part in (self.text, *(i.name for i in self.images), "|", *(f.name for f in self.frames)):
            digest.update(part.encode("utf-8", "surrogatepass"))
            digest.update(b"\0")
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

"""One side and its T-CoT as a chat, in the order of Eq. 2. Source: Embed-RL §3.1 Eq. 2, §3.3, B.3."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from embedrl.data.images import MAX_RATIO
from embedrl.errors import ConfigError, DataError, TCoTError
from embedrl.tcot.cue_removal import without_cues
from embedrl.tcot.evidence import crop_box, jitter_box, split_at_evidence
from embedrl.tcot.parser import parse
from embedrl.tcot.schema import Box, ParseResult, TCoT
from embedrl.types import Chat, Modality, Side
from embedrl.utils.reserved_words import COMMON, EMB_TOKEN, QWEN, escape

if TYPE_CHECKING:
    from PIL.Image import Image


SUMMARIZE = "Summarize the above content in one word:"
"""The last line of the user turn."""

_MIN_CROP = 8  # pixels: a thinner crop has no room for one patch


@dataclass(frozen=True)
class RenderOptions:
    """What the Embedder reads of a side and its T-CoT; the switches of the paper's ablations.

    Attributes:
        tcot: `full` T-CoT, `answer_only` (the answer without reasoning and cues), `as_written` (any text, which is not
            parsed and has no evidence), `latent` (no T-CoT: the latent steps of a model that takes them), or `none`
            (the raw side).
        cues: `on` prints the cues and adds crops and key frames; `printed` prints them only; `off` removes both.
            Applies to `tcot: full`. YAML reads a bare `on` or `off` as a truth value, which means the same here.
        max_evidence: At most this many crops or key frames per side, the first ones.
        crop_margin: Margin on each side of a box, as a share of the box's width and height.
        jitter: In training, each corner of a box moves by up to this much (in 0..1000).
        drop_evidence: In training, the probability that a crop or key frame is left out.
        replace_evidence: In training, the probability that it is replaced: a box by one of the same size elsewhere,
            a key frame by any frame.
        drop_tcot: In training, the probability that a side is read without its T-CoT, so that the Embedder learns to
            compare sides with T-CoTs and without.
        on_missing_tcot: A side without a T-CoT: `raise`, or render it `raw`.
        on_bad_tcot: A T-CoT that breaks the format: `raise`, or use what can be read (`lenient`).
    """

    tcot: Literal["full", "answer_only", "as_written", "latent", "none"] = "full"
    cues: Literal["on", "printed", "off", True, False] = "on"
    max_evidence: int = 4
    crop_margin: float = 0.1
    jitter: float = 0.0
    drop_evidence: float = 0.0
    replace_evidence: float = 0.0
    drop_tcot: float = 0.0
    on_missing_tcot: Literal["raise", "raw"] = "raise"
    on_bad_tcot: Literal["raise", "lenient"] = "raise"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is out of range.
        """
        if isinstance(self.cues, bool):
            object.__setattr__(self, "cues", "on" if self.cues else "off")
        if self.max_evidence < 0:
            raise ConfigError(f"render.max_evidence is {self.max_evidence}: give 0 or more")
        if self.crop_margin < 0:
            raise ConfigError(f"render.crop_margin is {self.crop_margin}: give 0 or more")
        if not 0 <= self.jitter <= 1000:
            raise ConfigError(f"render.jitter is {self.jitter}: give a value in 0..1000")
        for flag in ("drop_evidence", "replace_evidence", "drop_tcot"):
            if not 0 <= getattr(self, flag) <= 1:
                raise ConfigError(f"render.{flag} is {getattr(self, flag)}: give a probability in 0..1")


def check_latent(options: RenderOptions, preprocessor: object, flag: str) -> None:
    """See that a model takes latent steps where the options ask for them.

    Args:
        options: What to show.
        preprocessor: The model's.
        flag: Where the options stand, such as `data.render`.

    Raises:
        ConfigError: If it takes none.
    """
    if options.tcot == "latent" and not getattr(preprocessor, "takes_latent_steps", False):
        raise ConfigError(
            f"{flag}.tcot is latent, but this model takes no latent steps: give an embedrl.QwenVLLatent with "
            "latent_steps above 0, or another value"
        )


def renders_raw(side: Side, options: RenderOptions) -> bool:
    """True if `render` leaves the side without a T-CoT although the options ask for one (`on_missing_tcot: raw`)."""
    return options.tcot not in ("none", "latent") and not side.tcot.strip()


def render(
    side: Side,
    options: RenderOptions,
    rng: random.Random | None = None,
    *,
    where: str = "",
    parsed: ParseResult | None = None,
    repairs: Counter[str] | None = None,
) -> Chat:
    """Turn a side into the chat that the Embedder reads.

    The user turn holds pictures, video, text, the T-CoT up to `</thinking>`, its evidence (crops of the *first*
    picture, or the key frames, as image parts marked `"evidence": True`), the rest of the T-CoT, and the line
    `SUMMARIZE`. The assistant turn holds `<emb>` alone. Each is a part of its own; a text part that follows a text part
    starts with a newline. The parts of a T-CoT are marked `"reasoning": True`, the last line `"request": True`, for
    models that have them elsewhere.

    Args:
        side: The side; its pictures are opened here.
        options: What to show.
        rng: Source of the training-time noise; None renders without noise.
        where: `dataset/id`, put in front of every error.
        parsed: What the parser says about the side's T-CoT, if that is known.
        repairs: Where to count what was repaired: `reserved_words`, a T-CoT that spells tokens of a model, which are
            escaped; `evidence_grown`, crops too thin for a model to read, which were made wider.

    Returns:
        The chat: one user and one assistant message.

    Raises:
        DataError: If the side is empty, a picture is broken, a text holds a token reserved for the model, or the T-CoT
            is missing or malformed and the options say `raise`.

    Source: Embed-RL §3.1 Eq. 2, §3.3, B.3.
    """
    content = side_content(side, options, rng, where=where, parsed=parsed, repairs=repairs)
    add_text(content, SUMMARIZE, request=True)
    return [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": EMB_TOKEN}]},
    ]


def side_content(
    side: Side,
    options: RenderOptions,
    rng: random.Random | None = None,
    *,
    where: str = "",
    parsed: ParseResult | None = None,
    repairs: Counter[str] | None = None,
) -> list[dict[str, Any]]:
    """What a model reads of a side and its T-CoT: the user turn of `render` without its last line.

    Args:
        side: As in `render`, like all others.
        options: What to show.
        rng: Source of the training-time noise.
        where: `dataset/id`, put in front of every error.
        parsed: What the parser says about the side's T-CoT, if that is known.
        repairs: Where to count what was repaired.

    Returns:
        The parts of a message.

    Raises:
        DataError: As `render`.
    """
    try:
        return _content(side, options, rng, parsed, Counter() if repairs is None else repairs)
    except DataError as error:
        raise DataError(f"{where}: {error}" if where else str(error)) from error


def _content(
    side: Side,
    options: RenderOptions,
    rng: random.Random | None,
    parsed: ParseResult | None,
    repairs: Counter[str],
) -> list[dict[str, Any]]:
    if side.is_empty:
        raise DataError("the side is empty: give it a text, an image or frames")
    if reserved := QWEN.search(side.text):
        raise DataError(f"the text holds {reserved.group()!r}, a token reserved for the model: remove it from the text")
    images = [source.load() for source in side.images]
    frames = [source.load() for source in side.frames]
    content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    if frames:
        content.append({"type": "video", "video": frames, "fps": side.fps})
    if side.text.strip():
        add_text(content, side.text)
    dropped = rng is not None and options.drop_tcot > 0 and side.tcot.strip() and rng.random() < options.drop_tcot
    if options.tcot == "latent":
        content.append({"type": "text", "text": "", "reasoning": True})
    elif options.tcot != "none" and not dropped:
        _add_tcot(content, side, options, images, frames, rng, parsed, repairs)
    return content


def add_text(content: list[dict[str, Any]], text: str, **marks: bool) -> None:
    """Append a text part; one that follows a text part starts with a newline."""
    follows_text = bool(content) and content[-1]["type"] == "text"
    content.append({"type": "text", "text": f"\n{text}" if follows_text else text, **marks})


def _add_tcot(
    content: list[dict[str, Any]],
    side: Side,
    options: RenderOptions,
    images: list[Image],
    frames: list[Image],
    rng: random.Random | None,
    parsed: ParseResult | None,
    repairs: Counter[str],
) -> None:
    if not side.tcot.strip():
        if options.on_missing_tcot == "raise":
            raise TCoTError("no T-CoT: annotate it, or set render.on_missing_tcot: raw, or render.tcot: none")
        return
    if options.tcot == "as_written":
        add_text(content, _text(side, options, repairs)[0], reasoning=True)
        return
    tcot = _read(side, options, parsed, repairs)
    if options.tcot == "answer_only":
        add_text(content, f"<answer>{without_cues(tcot.answer)}</answer>", reasoning=True)
        return
    before, after = split_at_evidence(tcot)
    if options.cues == "off":
        before, after = without_cues(before, objects=True), without_cues(after)
    add_text(content, before, reasoning=True)
    if options.cues == "on":
        for picture in _evidence(tcot, side.modality, options, images, frames, rng, repairs):
            content.append({"type": "image", "image": picture, "evidence": True})
    add_text(content, after, reasoning=True)


def _text(side: Side, options: RenderOptions, repairs: Counter[str]) -> tuple[str, bool]:
    """The T-CoT without reserved words, and whether it had some."""
    if options.on_bad_tcot == "raise":
        if reserved := QWEN.search(side.tcot):
            raise TCoTError(f"the T-CoT holds {reserved.group()!r}, a token reserved for the model: write it again")
    elif COMMON.search(side.tcot):
        repairs["reserved_words"] += 1
        return escape(side.tcot), True
    return side.tcot, False


def _read(side: Side, options: RenderOptions, parsed: ParseResult | None, repairs: Counter[str]) -> TCoT:
    text, escaped = _text(side, options, repairs)
    parsed = None if escaped else parsed
    result = parse(text, side.modality, len(side.frames) or None) if parsed is None else parsed
    if result.problems and options.on_bad_tcot == "raise":
        problems = "; ".join(problem.message for problem in result.problems)
        raise TCoTError(f"malformed T-CoT: {problems} (write it again, or set render.on_bad_tcot: lenient)")
    return result.tcot


def _evidence(
    tcot: TCoT,
    modality: Modality,
    options: RenderOptions,
    images: list[Image],
    frames: list[Image],
    rng: random.Random | None,
    repairs: Counter[str],
) -> list[Image]:
    """The crops of a picture, or the key frames of a video; nothing for a text."""
    if modality is Modality.IMAGE:
        boxes = _noisy_boxes(tcot.cues.boxes[: options.max_evidence], options, rng)
        crops = []
        for box in boxes:
            crop = crop_box(images[0], box, options.crop_margin, _MIN_CROP)
            if max(crop.size) > MAX_RATIO * min(crop.size):
                crop = crop_box(images[0], box, options.crop_margin, _MIN_CROP, MAX_RATIO)
                repairs["evidence_grown"] += 1
            crops.append(crop)
        return crops
    if modality is Modality.VIDEO:
        indices = [i for i in tcot.cues.key_frames if 1 <= i <= len(frames)][: options.max_evidence]
        return [frames[i - 1] for i in _noisy_frames(indices, len(frames), options, rng)]
    return []


def _noisy_boxes(boxes: Sequence[Box], options: RenderOptions, rng: random.Random | None) -> list[Box]:
    if rng is None:
        return list(boxes)
    noisy = []
    for box in boxes:
        if rng.random() < options.drop_evidence:
            continue
        if rng.random() < options.replace_evidence:
            width, height = box[2] - box[0], box[3] - box[1]
            left, top = rng.uniform(0, 1000 - width), rng.uniform(0, 1000 - height)
            box = (left, top, left + width, top + height)
        noisy.append(jitter_box(box, rng, options.jitter))
    return noisy


def _noisy_frames(indices: Sequence[int], count: int, options: RenderOptions, rng: random.Random | None) -> list[int]:
    if rng is None:
        return list(indices)
    kept = [index for index in indices if rng.random() >= options.drop_evidence]
    return [rng.randint(1, count) if rng.random() < options.replace_evidence else index for index in kept]

"""Text → T-CoT: lenient in reading, strict in the verdict; never raises, linear time. Source: Embed-RL §3.2."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

from embedrl.tcot.cues import read_cues
from embedrl.tcot.schema import MAX_ENTRIES, SECTIONS, Box, Cues, ParseResult, ProblemCode, ProblemLog, TCoT, clean_text
from embedrl.types import Modality

_ALIASES = {"think": "thinking", "rethinking": "rethink", "answers": "answer"}
# Bounded spaces keep this linear on adversarial text.
_TAG = re.compile(r"<\s{0,4}(/?)\s{0,4}(thinking|think|rethinking|rethink|answers|answer)\s{0,4}/?>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Tag:
    section: str
    closing: bool
    exact: bool
    text: str
    start: int
    end: int


def parse(text: str, modality: Modality, num_frames: int | None = None) -> ParseResult:
    """Parse a T-CoT and list everything that is wrong with it.

    Args:
        text: Any text, such as a model's reply.
        modality: Modality of the side it was written for; determines the cue key.
        num_frames: Number of sampled frames of a video; None skips the upper bound of `key_frames`.

    Returns:
        The best reading (boxes ordered and inside 0..1000, frames in range, sections free of the template's tags)
        and every problem. `ok` is the strict verdict.
    """
    log = ProblemLog()
    text = _clean(text, log)
    raw_sections, outside = _sections(text, log)
    if not raw_sections:
        raw_sections, outside = {"thinking": outside}, ""
    sections = {name: _TAG.sub(lambda m: f"[{m[2]}]", raw_sections.get(name, "")).strip() for name in SECTIONS}
    elsewhere = (sections["rethink"], sections["answer"], outside)
    cues = read_cues(sections["thinking"], elsewhere, modality, num_frames, log)
    return ParseResult(TCoT(**sections, cues=cues), log.problems(), log.one_box)


def build(
    modality: Modality,
    thinking: str,
    rethink: str,
    answer: str,
    *,
    keywords: Iterable[str] = (),
    boxes: Iterable[Box] = (),
    frames: Iterable[int] = (),
) -> TCoT:
    """Make a valid T-CoT in code; the JSON cue object is appended to `thinking`.

    Args:
        modality: Modality of the side: decides which of the cues is used and needed.
        thinking: Prose of the thinking section, without JSON.
        rethink: The rethink section.
        answer: The answer section.
        keywords: Cues of a text side.
        boxes: Cues of an image side, 0..1000; rounded to integers.
        frames: Cues of a video side, from 1.

    Returns:
        A T-CoT whose rendering parses without a problem. Repeated cues are kept once.

    Raises:
        ValueError: If the result would not parse without a problem; the message lists the problems.
    """
    cues = Cues(
        tuple(dict.fromkeys(keywords)),
        tuple(dict.fromkeys((round(a), round(b), round(c), round(d)) for a, b, c, d in boxes)),
        tuple(dict.fromkeys(int(k) for k in frames)),
    )
    tcot = TCoT(f"{thinking.strip()} {cues.to_json(modality)}".strip(), rethink.strip(), answer.strip())
    result = parse(tcot.render(), modality)
    if not result.ok:
        raise ValueError(f"not a valid {modality} T-CoT: " + "; ".join(p.message for p in result.problems))
    return replace(tcot, cues=result.tcot.cues)


def _clean(text: str, log: ProblemLog) -> str:
    clean = clean_text(text)
    if clean != text:
        log.add(ProblemCode.BAD_CHARACTER, "the text holds lone surrogates or NUL characters; they are replaced")
    return clean


def _tags(text: str, log: ProblemLog) -> list[_Tag]:
    """The template's tags in order; misspelt ones only where the right spelling is nowhere in the text."""
    tags: list[_Tag] = []
    for match in islice(_TAG.finditer(text), MAX_ENTRIES + 1):
        if len(tags) == MAX_ENTRIES:
            log.add(ProblemCode.TOO_MANY, f"more than {MAX_ENTRIES} tags; those after are not read", "tags")
            break
        name = match[2].lower()
        section = _ALIASES.get(name, name)
        closing = bool(match[1])
        exact = match[0] == f"<{match[1]}{section}>"
        tags.append(_Tag(section, closing, exact, match[0], match.start(), match.end()))
        if not exact:
            asked = f"<{'/' * closing}{section}>"
            log.add(ProblemCode.WRONG_TAG, f"tag {match[0]!r} where {asked} is asked for", asked)
    spelt_right = {(tag.section, tag.closing) for tag in tags if tag.exact}
    return [tag for tag in tags if tag.exact or (tag.section, tag.closing) not in spelt_right]


def _next_positions(tags: list[_Tag], closing: bool) -> dict[str, list[int]]:
    """For each section and tag position, the position of the next such tag after it (or one past the end)."""
    table = {}
    for name in SECTIONS:
        following = [len(tags)] * len(tags)
        for i in range(len(tags) - 2, -1, -1):
            hit = tags[i + 1].section == name and tags[i + 1].closing == closing
            following[i] = i + 1 if hit else following[i + 1]
        table[name] = following
    return table


def _is_mention(
    tags: list[_Tag], i: int, current: str, opens: dict[str, list[int]], closes: dict[str, list[int]]
) -> bool:
    """Whether opening tag `i` inside section `current` is prose: `current` is closed first and `i` is not."""
    own_close = closes[current][i]
    return own_close < len(tags) and own_close < opens[current][i] and own_close < closes[tags[i].section][i]


def _sections(text: str, log: ProblemLog) -> tuple[dict[str, str], str]:
    """Cut a text into sections; returns them in order of occurrence, and the text outside them."""
    tags = _tags(text, log)
    opens, closes = _next_positions(tags, closing=False), _next_positions(tags, closing=True)
    sections: dict[str, str] = {}
    outside: list[str] = []
    current: str | None = None
    begin = 0  # where the current section, or the text outside, begins

    def keep(section: str, content: str) -> None:
        if section in sections:
            log.add(ProblemCode.REPEATED_TAG, f"<{section}> stands more than once; exactly one is asked for", section)
        if not sections.get(section, "").strip():
            sections[section] = content

    for i, tag in enumerate(tags):
        if current is None:
            if tag.closing and tag.section not in sections and opens[tag.section][i] == len(tags):
                log.add(ProblemCode.UNOPENED, f"{tag.text!r} without <{tag.section}> before it", tag.section)
                keep(tag.section, text[begin : tag.start])
            elif tag.closing:
                log.add(ProblemCode.STRAY_TAG, f"{tag.text!r} closes nothing", tag.section)
                outside.append(text[begin : tag.start])
            else:
                outside.append(text[begin : tag.start])
                current = tag.section
            begin = tag.end
        elif tag.closing and tag.section == current:
            keep(current, text[begin : tag.start])
            current, begin = None, tag.end
        elif tag.closing:
            log.add(ProblemCode.STRAY_TAG, f"{tag.text!r} inside <{current}>", tag.section)
        elif tag.section == current:
            log.add(ProblemCode.REPEATED_TAG, f"{tag.text!r} inside <{current}>", current)
        elif _is_mention(tags, i, current, opens, closes):
            log.add(ProblemCode.NESTED_TAG, f"{tag.text!r} inside the text of <{current}>", tag.section)
        else:
            log.add(ProblemCode.UNCLOSED, f"<{current}> is not closed before {tag.text!r}", current)
            keep(current, text[begin : tag.start])
            current, begin = tag.section, tag.end
    if current is not None:
        log.add(ProblemCode.UNCLOSED, f"<{current}> is never closed", current)
        keep(current, text[begin:])
    else:
        outside.append(text[begin:])
    _judge_sections(sections, "".join(outside), log)
    return sections, "".join(outside)


def _judge_sections(sections: dict[str, str], outside: str, log: ProblemLog) -> None:
    for name in SECTIONS:
        if name not in sections:
            log.add(ProblemCode.MISSING_TAG, f"<{name}> is missing", name)
        elif not sections[name].strip():
            log.add(ProblemCode.EMPTY_SECTION, f"<{name}> is empty", name)
    if list(sections) != [name for name in SECTIONS if name in sections]:
        order = ", ".join(f"<{name}>" for name in sections)
        log.add(ProblemCode.WRONG_ORDER, f"sections in the order {order}; thinking, rethink, answer is asked for")
    if outside.strip():
        log.add(ProblemCode.TEXT_OUTSIDE, f"text outside the tags: {outside.strip()[:60]!r}")

"""Reading the JSON cue objects of a T-CoT and reporting every deviation from the format. Source: Embed-RL §3.2."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from embedrl.tcot.schema import CUE_KEY, MAX_ENTRIES, Box, Cues, ProblemCode, ProblemLog, clean_text
from embedrl.types import Modality

_TOKEN = re.compile(r'[{}"\n]|\\.', re.DOTALL)
# Followed by a value: "the bbox_2d: see below" is prose.
_KEY = re.compile(r"\b(text_keywords|bbox_2d|key_frames)\b[\"']?\s{0,8}[:=]\s{0,8}(?=[\[\d\"'])")
_NUMBERS = re.compile(r"[\[\]\s\d.,+-]*")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_QUOTED = re.compile(r"\"([^\"\n]*)\"|'([^'\n]*)'")

# Longer digit strings make int() fail or slow; no coordinate or frame needs them.
_MAX_DIGITS = 20

_REPR = reprlib.Repr()
_REPR.maxstring = 60
_show = _REPR.repr


class _JsonObject(tuple[tuple[str, Any], ...]):
    """The members of a JSON object in order, duplicate keys included."""


@dataclass(frozen=True, slots=True)
class _CueObject:
    """One JSON object, or what could be recovered from a broken one."""

    members: tuple[tuple[str, Any], ...]
    error: str = ""

    @property
    def cues(self) -> list[tuple[str, Any]]:
        """The members with a cue key; those of nested objects if the object itself has none."""
        known = CUE_KEY.values()
        cues = [member for member in self.members if member[0] in known]
        todo: list[Any] = [] if cues else [self.members]
        while todo:
            item = todo.pop()
            members = [value for _, value in item] if isinstance(item, _JsonObject) else item
            if isinstance(item, _JsonObject):
                cues += [member for member in item if member[0] in known]
            todo += [value for value in reversed(members) if isinstance(value, _JsonObject | list)]
        return cues


def read_cues(
    thinking: str, elsewhere: Iterable[str], modality: Modality, num_frames: int | None, log: ProblemLog
) -> Cues:
    """Read the cues of a T-CoT.

    Args:
        thinking: The text of the thinking section.
        elsewhere: The other texts, where a cue object is out of place.
        modality: Modality of the side: determines the required key.
        num_frames: Number of sampled frames, if known.
        log: Collects every deviation from "one JSON object with exactly the right key".

    Returns:
        The cues of all objects together, whatever their key; from elsewhere only if `thinking` holds none.
    """
    expected_key = CUE_KEY[modality]
    objects = list(_find_objects(thinking))
    misplaced = [item for text in elsewhere for item in _find_objects(text) if item.cues]
    _judge_objects(objects, misplaced, expected_key, log)
    used = [member for item in objects for member in item.cues]
    used = used or [member for item in misplaced for member in item.cues]
    values: dict[str, list[Any]] = {key: [] for key in CUE_KEY.values()}
    for key, value in used:
        values[key].append(value)

    def judged(key: str) -> ProblemLog:
        return log if key == expected_key else ProblemLog()

    keywords = [w for v in values["text_keywords"] for w in _keywords(v, judged("text_keywords"))]
    boxes = [b for v in values["bbox_2d"] for b in _boxes(v, judged("bbox_2d"))]
    frames = [f for v in values["key_frames"] for f in _frames(v, num_frames, judged("key_frames"))]
    cues = Cues(tuple(dict.fromkeys(keywords)), tuple(dict.fromkeys(boxes)), tuple(dict.fromkeys(frames)))
    read = {"text_keywords": len(keywords), "bbox_2d": len(boxes), "key_frames": len(frames)}[expected_key]
    kept = {"text_keywords": cues.text_keywords, "bbox_2d": cues.boxes, "key_frames": cues.key_frames}[expected_key]
    if read > len(kept):
        log.add(ProblemCode.REPEATED_CUE, f"'{expected_key}' repeats {read - len(kept)} of its {read} entries")
    return cues


def _judge_objects(objects: list[_CueObject], misplaced: list[_CueObject], expected_key: str, log: ProblemLog) -> None:
    if not objects:
        log.add(ProblemCode.NO_CUE, f"no JSON cue object in <thinking>; one with the key '{expected_key}' is asked for")
    if len(objects) > 1:
        log.add(ProblemCode.SEVERAL_CUES, f"{len(objects)} JSON objects in <thinking>; exactly one is asked for")
    if misplaced:
        log.add(ProblemCode.MISPLACED_CUE, "a cue object outside <thinking>; it belongs into <thinking>")
    for item in objects:
        if item.error:
            log.add(ProblemCode.BAD_JSON, item.error)
        keys = [key for key, _ in item.members]
        if not item.error and expected_key not in keys:
            names = ", ".join(_show(key) for key in keys[:4]) or "no key"
            log.add(ProblemCode.WRONG_CUE_KEY, f"the cue object has {names}; '{expected_key}' is asked for")
        elif any(key != expected_key for key in keys):
            extra = next(key for key in keys if key != expected_key)
            log.add(
                ProblemCode.EXTRA_KEY, f"the cue object also has {_show(extra)}; only '{expected_key}' is asked for"
            )
        if keys.count(expected_key) > 1:
            log.add(
                ProblemCode.DUPLICATE_KEY, f"'{expected_key}' stands {keys.count(expected_key)} times in one object"
            )


def _find_objects(text: str) -> Iterator[_CueObject]:
    """Every JSON object of a text, and broken ones that name a cue key or begin like JSON."""
    end_of_last = 0
    groups = find_groups(text)
    for start, end in groups[:MAX_ENTRIES]:
        yield from _salvage(text[end_of_last:start], "a cue that is not in a closed {...}")
        end_of_last = end
        group = text[start:end]
        try:
            members = json.loads(
                group, object_pairs_hook=_JsonObject, parse_int=_parse_int, parse_constant=lambda _: math.nan
            )
            yield _CueObject(members)
        except json.JSONDecodeError as error:
            saved = list(_salvage(group, f"not JSON: {error.msg} at character {error.pos} of {_show(group)}"))
            if not saved and re.match(r"\{\s{0,8}\"", group):
                saved = [_CueObject((), f"not JSON: {error.msg} at character {error.pos} of {_show(group)}")]
            yield from saved
        except RecursionError:
            yield _CueObject((), "a JSON object nested too deeply to read")
    if len(groups) <= MAX_ENTRIES:
        yield from _salvage(text[end_of_last:], "a cue that is not in a closed {...}")


def find_groups(text: str) -> list[tuple[int, int]]:
    """Start and end of the outermost balanced `{...}`, skipping braces inside JSON strings; one pass."""
    stack: list[int] = []
    done: list[tuple[int, int]] = []
    in_string = False
    for match in _TOKEN.finditer(text):
        token = match[0]
        if in_string:
            # A raw line break cannot be in a JSON string: a lone quote in prose ends here.
            in_string = token not in ('"', "\n")
        elif token == '"':
            in_string = bool(stack)
        elif token == "{":
            stack.append(match.start())
        elif token == "}" and stack:
            start = stack.pop()
            while done and done[-1][0] > start:
                done.pop()
            done.append((start, match.end()))
    return done


def _salvage(text: str, error: str) -> Iterator[_CueObject]:
    """Read `key: values` out of text that is not JSON (single quotes, no braces, cut off)."""
    matches = list(islice(_KEY.finditer(text), MAX_ENTRIES))
    members: list[tuple[str, Any]] = []
    ends = [match.start() for match in matches[1:]] + [len(text)]
    for match, following in zip(matches, ends, strict=False):
        if match[1] == CUE_KEY[Modality.TEXT]:
            stop = text.find("]", match.end(), following)
            words = _QUOTED.findall(text, match.end(), following if stop < 0 else stop)
            members.append((match[1], [double or single for double, single in words]))
        else:
            run = _NUMBERS.match(text, match.end(), following)
            digits = [m[0] for m in islice(_NUMBER.finditer(run[0] if run else ""), 4 * MAX_ENTRIES)]
            numbers: list[Any] = [float(n) if "." in n else _parse_int(n) for n in digits]
            if match[1] == CUE_KEY[Modality.IMAGE]:
                numbers = [numbers[i : i + 4] for i in range(0, len(numbers) - 3, 4)]
            members.append((match[1], numbers))
    if members:
        yield _CueObject(tuple(members), error)


def _parse_int(digits: str) -> float:
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


def _number(value: Any) -> float | None:
    """A finite number out of a JSON value, without negative zero; a number in quotes counts."""
    if isinstance(value, str) and len(value) <= _MAX_DIGITS and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value + 0.0


def _as_list(value: Any, key: str, log: ProblemLog) -> list[Any]:
    if isinstance(value, list):
        if not value:
            log.add(ProblemCode.EMPTY_CUE, f"'{key}' is an empty list")
        if len(value) > MAX_ENTRIES:
            log.add(ProblemCode.TOO_MANY, f"'{key}' has {len(value)} entries; those after {MAX_ENTRIES} are dropped")
        return value[:MAX_ENTRIES]
    log.add(ProblemCode.NOT_A_LIST, f"'{key}' holds {_show(value)}; a list is asked for")
    return [value]


def _keywords(value: Any, log: ProblemLog) -> Iterator[str]:
    for word in _as_list(value, CUE_KEY[Modality.TEXT], log):
        clean = clean_text(word).strip() if isinstance(word, str) else ""
        if not clean:
            log.add(ProblemCode.BAD_KEYWORD, f"keyword {_show(word)} is not a text with something in it", "empty")
            continue
        if clean != word.strip():
            log.add(
                ProblemCode.BAD_KEYWORD, f"keyword {_show(word)} holds lone surrogates or NUL characters", "unicode"
            )
        yield clean


def _frames(value: Any, num_frames: int | None, log: ProblemLog) -> Iterator[int]:
    last = "" if num_frames is None else f"..{num_frames}"
    for item in _as_list(value, CUE_KEY[Modality.VIDEO], log):
        number = _number(item)
        if not isinstance(item, int) or number is None:
            log.add(ProblemCode.BAD_FRAME, f"frame {_show(item)} is not an integer", "type")
        if number is None or number != int(number):
            continue
        if number < 1 or (num_frames is not None and number > num_frames):
            log.add(ProblemCode.BAD_FRAME, f"frame {_show(item)} is outside 1{last}; frames count from 1", "range")
        else:
            yield int(number)


def _boxes(value: Any, log: ProblemLog) -> Iterator[Box]:
    items = _as_list(value, CUE_KEY[Modality.IMAGE], log)
    if items and not any(isinstance(item, list) for item in items):
        if len(items) == 4:
            log.one_box = True
        else:
            log.add(ProblemCode.BAD_BOX, f"{len(items)} values in a row; a list of [x1, y1, x2, y2] is asked for")
        items = [items[i : i + 4] for i in range(0, len(items), 4)]
    for item in items:
        box = _box(item, log)
        if box is not None:
            yield box


def _box(item: Any, log: ProblemLog) -> Box | None:
    numbers = [_number(v) for v in item] if isinstance(item, list) and len(item) == 4 else []
    corners = [n for n in numbers if n is not None]
    if len(corners) != 4:
        log.add(ProblemCode.BAD_BOX, f"{_show(item)} is not four finite numbers [x1, y1, x2, y2]")
        return None
    if any(isinstance(v, str) for v in item):
        log.add(ProblemCode.BAD_BOX, f"box {_show(item)} has numbers in quotes", "quotes")
    if any(isinstance(v, float) for v in item):
        scaled = min(corners) >= 0 and 0 < max(corners) <= 1
        hint = "; it looks like 0..1 and is read times 1000" if scaled else ""
        log.add(ProblemCode.FLOAT_COORDINATE, f"box {_show(item)} has floats; integers 0..1000 are asked for{hint}")
        corners = [c * 1000 for c in corners] if scaled else corners
    x1, y1, x2, y2 = corners
    if x1 > x2 or y1 > y2:
        log.add(ProblemCode.BOX_SWAPPED, f"box {_show(item)} has x1 > x2 or y1 > y2; corners are read in order")
        x1, y1, x2, y2 = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
    if x1 == x2 or y1 == y2:
        log.add(ProblemCode.BOX_EMPTY, f"box {_show(item)} has no area")
    if min(x1, y1) < 0 or max(x2, y2) > 1000:
        log.add(ProblemCode.BOX_OUTSIDE, f"box {_show(item)} leaves 0..1000 and is cut to it")
        if x2 <= 0 or y2 <= 0 or x1 >= 1000 or y1 >= 1000:
            return None
    return max(x1, 0.0), max(y1, 0.0), min(x2, 1000.0), min(y2, 1000.0)

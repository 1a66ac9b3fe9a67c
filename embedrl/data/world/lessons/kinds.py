"""Every kind of lesson by name: a function of (rng, split, objects in a scene).

A reply that points ends in the cue object of a T-CoT, and says in words what it points at before the numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from embedrl.data.world.lessons import pages as pages
from embedrl.data.world.lessons import scenes as scenes
from embedrl.data.world.lessons import videos as videos
from embedrl.data.world.lessons.parts import Objects
from embedrl.data.world.scene import Split
from embedrl.types import Lesson

LESSONS: dict[str, Callable[[random.Random, Split, Objects], Lesson]] = {
    function.__name__: function
    for function in (
        scenes.describe,
        scenes.locate,
        scenes.where,
        scenes.point,
        scenes.point_place,
        scenes.point_relation,
        scenes.point_twice,
        scenes.answer_place,
        scenes.answer_relation,
        scenes.answer_twice,
        scenes.close,
        scenes.mark,
        scenes.choose,
        videos.watch,
        videos.frame,
        videos.when,
        videos.moment,
        videos.moment_after,
        videos.answer_after,
        videos.story,
        pages.read_page,
        pages.point_row,
        pages.read_digits,
        pages.read_number,
    )
}
"""Name → lesson."""

"""How difficult a pair of the world is, by construction: what a Reasoner has to go through to answer."""

from __future__ import annotations

from collections.abc import Mapping

from embedrl.data.world.samples import sample_of
from embedrl.data.world.vocabulary import RELATIONS

_WORDS = (*(f" {words} the " for words in RELATIONS), " after the ", " before the ")


class WorldDifficulty:
    """The known difficulty of a pair of the world; implements `Difficulty`.

    `objects`: how many things the picture, page or clip shows, the query's or, of a text query, the target's.
    `steps`: 2 if the query names what it means by its relation to something else (`left of the red star`, `after the
    red star`), else 1. `frames`: frames of the clip; 1 of a picture.

    >>> WorldDifficulty()("vqa-train-0-0")
    {'objects': 6.0, 'steps': 1.0, 'frames': 1.0}
    """

    def __call__(self, pair_id: str) -> Mapping[str, float]:
        """The difficulty of a pair.

        Args:
            pair_id: A `Pair.id` of the world, e.g. `grounding-train-0-123`.

        Raises:
            DataError: If it is not such an id.
        """
        sample = sample_of(pair_id)
        shown = max(
            (view for view in (sample.query, sample.target) if view.picture is not None or view.clip is not None),
            key=lambda view: (view is sample.query, len(view.items)),
        )
        frames = len(shown.clip.frames) if shown.clip is not None else 1
        steps = 1 + any(words in f" {sample.query.text} " for words in _WORDS)
        return {"objects": float(len(shown.items)), "steps": float(steps), "frames": float(frames)}

"""What a run logged."""

from collections import defaultdict
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def logged(folder: Path, tag: str) -> dict[int, list[float]]:
    """Every value of a curve by step, over all starts of the run; a step that was run twice has two."""
    values = defaultdict(list)
    for path in sorted(folder.glob("events.out.tfevents.*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        if tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                values[event.step].append(event.value)
    return dict(values)

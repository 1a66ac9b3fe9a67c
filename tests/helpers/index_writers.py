"""Processes that add to an index and are killed, or meet; started as a program, so that children are cheap to fork.

    python index_writers.py kills|race FOLDER

LanceDB's threads do not survive a fork: it is imported in the children alone.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path

from PIL import Image
from toy_embedder import ToyBackbone

from embedrl import Embedder, EmbedRLError, Index

ITEMS, BATCH = 160, 8


class LoggingBackbone(ToyBackbone):
    """Writes down how many sides it embeds."""

    log = Path()

    def encode(self, inputs):
        with self.log.open("a") as file:
            file.write("".join(f"{float(row[ord('a')])}\n" for row in inputs["x"]))
        return super().encode(inputs)


def items(folder, start, stop):
    """Each text has a length of its own, so that the log tells them apart; a model is asked its size by one of 1."""
    return [{"text": "a" * (i + 2), "image": folder / f"{i % 4}.png", "number": i} for i in range(start, stop)]


def add(folder, name, start=0, stop=ITEMS, log="log", extra=None):
    backbone = LoggingBackbone()
    backbone.log = folder / log
    rows = [{**item, **(extra or {})} for item in items(folder, start, stop)]
    index = Index.create(folder / name, Embedder(backbone, device="cpu"))
    return index.add(rows, batch=BATCH, progress=False)


def rows(folder, name):
    """The rows, but for when they were added."""
    try:
        store = Index.open(folder / name).store
    except EmbedRLError as error:  # written down, so that the test sees it
        return f"{type(error).__name__}: {error}"
    names = [column for column in store.schema.names if column not in ("added_at", "thumbnail")]
    return sorted((row for batch in store.read(names) for row in batch.to_pylist()), key=lambda row: row["number"])


def child(call, out):
    """Call in a forked process; its result goes to a file."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            out.write_text(json.dumps(call(), default=vars))
            status = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def result(call, out):
    _, status = os.waitpid(child(call, out), 0)
    assert status == 0, f"{out} was not written"
    return json.loads(out.read_text())


def embedded(folder, log="log"):
    path = folder / log
    lengths = [round(float(line)) for line in path.read_text().splitlines()] if path.exists() else []
    return [length for length in lengths if length > 1]


def kills(folder):
    """Kill an add at random moments until it ends by itself; what each run embedded, and what was in the index then."""
    whole = result(lambda: add(folder, "whole.lance", log="whole"), folder / "out")
    plain = result(lambda: rows(folder, "whole.lance"), folder / "out")
    chance = random.Random(0)
    runs = []
    for least in (None, 1, None, 20, 40, 60, 10**6):  # sides embedded before the kill; None: while the table is made
        (folder / "log").unlink(missing_ok=True)
        pid = child(partial(add, folder, "killed.lance"), folder / "out")
        ready = (folder / "killed.lance").exists if least is None else partial(has_embedded, folder, least)
        while not ready() and os.waitpid(pid, os.WNOHANG)[0] == 0:
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.05))
        if least != 10**6:  # the last one has ended by itself
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        present = result(partial(rows, folder, "killed.lance"), folder / "rows")
        runs.append({"embedded": embedded(folder), "rows": present})
    return {"whole": whole, "plain": plain, "runs": runs}


def has_embedded(folder, least):
    return len(embedded(folder)) >= least


def race(folder):
    """Two writers of overlapping items, each with a column of its own, at once and from the table's creation on."""
    shares = {"a": (0, 110), "b": (50, ITEMS)}
    pids = [
        child(partial(add, folder, "race.lance", *share, log=name, extra={name: 1}), folder / f"{name}.out")
        for name, share in shares.items()
    ]
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    assert statuses == [0, 0], statuses
    added = [json.loads((folder / f"{name}.out").read_text()) for name in shares]
    return {"added": added, "rows": result(lambda: rows(folder, "race.lance"), folder / "rows")}


if __name__ == "__main__":
    task, place = sys.argv[1], Path(sys.argv[2])
    for color in range(4):
        Image.new("RGB", (32, 32), (60 * color, 0, 0)).save(place / f"{color}.png")
    json.dump({"kills": kills, "race": race}[task](place), sys.stdout)

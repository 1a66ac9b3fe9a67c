"""The page on the built-in world, with the models that come with the package: nothing is trained.

    ./dev demo [--port 8000] [--items 160]

Draws pictures of the world's test split into runs/demo, has the Reasoner write their T-CoTs, indexes them, and serves
the page. A second run goes on with the index that is there.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

FOLDER = Path("runs/demo")
FAMILIES = ("t2i", "grounding", "composed", "vqa")


def draw(count: int) -> Path:
    """The pictures, and a table of them."""
    from embedrl.data.world import WorldTasks

    pictures = FOLDER / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = []
    per_family = -(-count // len(FAMILIES))
    for task in WorldTasks("test", per_family, FAMILIES, teacher="none", decoys=1).tasks():
        sides = [side for side in (*task.candidates, *task.queries) if side.images]
        for i, side in enumerate(sides[:per_family]):
            path = pictures / f"{task.name}_{i:03}.png"
            side.images[0].load().save(path)
            rows.append(f"pictures/{path.name},{task.name}")
    table = FOLDER / "items.csv"
    table.write_text("\n".join(["image,family", *rows]) + "\n")
    return table


def main() -> None:
    """Draw, index, serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", default="8000")
    parser.add_argument("--items", type=int, default=160)
    parser.add_argument("--only_index", action="store_true")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from embedrl.cli import main as embedrl

    index = str(FOLDER / "index.lance")
    models = ["--embedder", "embedrl:world_embedder", "--reasoner", "embedrl:world_reasoner", "--style", "brief"]
    code = embedrl(["index", "build", str(draw(given.items)), "--out", index, *models])
    if code == 0 and not given.only_index:
        print('Try: "find the picture : a red star ." or a picture of runs/demo/pictures, raw and with T-CoT.')
        code = embedrl(["serve", index, "--port", given.port])
    raise SystemExit(code)


if __name__ == "__main__":
    main()

"""`configs/eval/real_small.yaml` on small copies of its data, in the layouts of the packages."""

import gzip
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from tiny_pdf import pdf

from embedrl.cli import main
from embedrl.data.datasets import eyes17, openclipart, tux
from embedrl.data.datasets.tux import Stamp, split_of

CONFIGS = Path(__file__).parents[2] / "configs"
CONFIG = CONFIGS / "eval/real_small.yaml"


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), (shade, 40, 200 - shade)).save(path)


@pytest.fixture
def copies(tmp_path) -> dict[str, dict[str, str]]:
    """What to tell each class of tasks: where its data lie."""
    captions = [f"Animal {i}" for i in range(200)]
    held_out = [caption for caption in captions if split_of(Stamp(None, caption, ""), 0) == "test"][:3]
    for i, caption in enumerate(held_out):
        path = tmp_path / tux.STAMPS.folder / f"a/{i}.png"
        picture(path, 60 * i)
        path.with_suffix(".txt").write_text(f"{caption}\nde.utf8=Tier {i}\nes.utf8=Animal\nfr.utf8=Bête {i}\n")
    manual = tmp_path / eyes17.MANUAL.folder / "eyes17.pdf.gz"
    manual.parent.mkdir(parents=True)
    manual.write_bytes(gzip.compress(pdf(["Cover", "Sound", "Light"], [("Sound", 1), ("Light", 2)])))
    svg = "<dc:subject><rdf:Bag><rdf:li>thing</rdf:li><rdf:li>{}</rdf:li></rdf:Bag></dc:subject>"
    for i, folder in enumerate(openclipart.FOLDERS):
        picture(tmp_path / openclipart.PICTURES.folder / folder / "one.png", 10 * i)
        tags = tmp_path / openclipart.TAGS.folder / folder / "one.svg"
        tags.parent.mkdir(parents=True)
        tags.write_text(svg.format("even" if i % 2 == 0 else "odd"))
    root = str(tmp_path)
    return {
        "embedrl.data.datasets.TuxTasks": {"root": root},
        "embedrl.data.datasets.Eyes17Tasks": {"root": root},
        "embedrl.data.datasets.OpenClipartTasks": {"pictures": root, "tags": root},
    }


def test_scores_every_task(copies, tmp_path, capsys):
    tasks = yaml.safe_load(CONFIG.read_text())["tasks"]
    for task in tasks:
        task.setdefault("init_args", {}).update(copies[task["class_path"]])
    backbone = ["--backbone", str(CONFIGS / "parts/backbone/tiny.yaml")]
    out = tmp_path / "out"
    args = ["eval", "--config", str(CONFIG), "--tasks", json.dumps(tasks), *backbone, "--out", str(out)]
    assert main(args) == 0, capsys.readouterr().err
    sets = {result["name"]: result for result in json.loads((out / "report.json").read_text())["sets"]}
    assert {name: (result["queries"], result["candidates"]) for name, result in sets.items()} == {
        "tux_t2i": (3, 3),
        "tux_t2i_de": (3, 3),
        "tux_t2i_es": (1, 3),  # one caption for all pictures
        "tux_t2i_fr": (3, 3),
        "eyes17_pages": (2, 2),
        "openclipart_tags": (3, 12),
    }
    assert sets["tux_t2i_es"]["metrics"]["recall@10"] == 1.0
    assert sets["openclipart_tags"]["metrics"]["hit@10"] == 1.0


def test_missing_data_name_the_script(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EMBEDRL_CACHE", str(tmp_path))
    for name, script in {"datasets.TuxTasks": "fetch_tux", "datasets.Eyes17Tasks": "fetch_real_small"}.items():
        tasks = json.dumps([{"class_path": f"embedrl.data.{name}"}])
        args = ["--backbone", str(CONFIGS / "parts/backbone/tiny.yaml"), "--out", str(tmp_path / "out")]
        assert main(["eval", "--config", str(CONFIG), "--tasks", tasks, *args]) == 1
        assert f"run python scripts/{script}.py, or set root" in capsys.readouterr().err

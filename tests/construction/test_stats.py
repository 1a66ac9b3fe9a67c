"""`embedrl data stats`: the figures are right, and the plot is there."""

import json
from collections import Counter

import pytest
from making import run, world, write_mix
from PIL import Image

from embedrl.construction.rows import PairWriter, write_step_report
from embedrl.construction.stats import count
from embedrl.data.mix import MixRow
from embedrl.data.world.source import WorldSource
from embedrl.tcot.parser import build
from embedrl.types import Modality, Pair, Role, Side


class Two:
    """Two pairs, counted by hand."""

    name = "two"
    modality = Modality.IMAGE

    def __init__(self):
        text = build(Modality.TEXT, "one two", "three", "four", keywords=["a", "b", "c"]).render()
        self.pairs = [
            Pair(Side("what is it", tcot=text), Side("a b"), "two", "0"),
            Pair(Side("and this", tcot="<thinking>broken"), Side("a b"), "two", "1"),
        ]

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.pairs[index]


def test_figures():
    found = count(MixRow(Two()))
    assert (found.pairs, found.looked_at, found.modalities) == (2, 2, Counter({"text → text": 2}))
    assert found.words == {Role.QUERY: [3, 2], Role.TARGET: [2, 2]}
    assert found.cues == {"keywords": [3, 0], "boxes": [], "key frames": []}
    assert (len(found.tcot_words[Role.QUERY]), found.tcot_words[Role.TARGET]) == (2, [])
    assert (found.well_formed, len(found.targets)) == (1, 1)
    assert count(MixRow(Two()), limit=1).looked_at == 1


def test_the_worlds_figures():
    found = count(MixRow(WorldSource("moment", size=10)))
    assert found.modalities == Counter({"video → video": 10})
    assert found.well_formed == 20
    assert len(found.cues["key frames"]) == 20
    assert all(found.cues["key frames"])


@pytest.fixture
def written(tmp_path):
    """A data set that construction wrote, with its report; a row is broken."""
    source = WorldSource("vqa", size=6)
    writer = PairWriter(tmp_path / "kept", "world/vqa", source, 1.0)
    for index in range(6):
        writer.write(source[index])
    row = writer.close()
    path = tmp_path / "kept" / "world_vqa.jsonl"
    path.write_text(path.read_text() + '{"id": "bad"}\n')
    write_step_report(tmp_path / "kept" / "report.json", {"world/vqa": {"left_out": {"no_cue": 4, "conflict": 2}}})
    return write_mix(tmp_path / "mix.yaml", [row, world("video_ret", 5, teacher="none")])


def test_the_table_and_the_plot(written, tmp_path, capsys):
    assert run("data", "stats", "--mix", written, "--out", tmp_path / "plots" / "stats.png") == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in (
        "world/vqa 7 6",
        "image → text 6",
        "text → video 5",
        "no_cue 4",
        "conflict 2",
        "broken_row 1",
        "100.0 %",
    ):
        assert part in out, part
    with Image.open(tmp_path / "plots" / "stats.png") as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_wrong_flags(written, tmp_path, capsys):
    assert run("data", "stats", "--mix", written, "--out", tmp_path / "stats.txt") == 2
    assert "stats.txt" in capsys.readouterr().err
    assert run("data", "stats", "--mix", written, "--limit", 0) == 2
    (tmp_path / "kept" / "report.json").write_text(json.dumps([1]))
    assert run("data", "stats", "--mix", written) == 1
    assert "report.json" in capsys.readouterr().err

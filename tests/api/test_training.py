"""`Embedder.fit` is `embedrl fit`: the same weights, the same run folder; pairs of a program are written down."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import embedrl
from embedrl import cli
from embedrl.api.given_pairs import GivenPairs, read_pairs, write_pairs
from embedrl.api.training import configuration
from embedrl.data import JsonlSource, MixRow
from embedrl.data.world import WorldSource
from embedrl.errors import ConfigError, DataError
from embedrl.models.weights_hash import weights_hash
from embedrl.training.trained_model import load_embedder
from embedrl.types import Modality, Pair

COLOURS = ("red", "green", "blue", "white", "black", "yellow")
PAIRS = [(f"a {colour} picture", Image.new("RGB", (64, 48), colour)) for colour in COLOURS]


def write_files(folder):
    folder.mkdir()
    for text, picture in PAIRS:
        picture.save(folder / f"{text.split()[1]}.png")
    return [(text, folder / f"{text.split()[1]}.png") for text, _ in PAIRS]


@pytest.mark.slow
def test_a_fit_equals_the_command_line_on_its_configuration(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embedder = embedrl.Embedder.from_pretrained(checkpoint, device="cpu")
    before = weights_hash(embedder.backbone)
    options = {"model.gradient_cache": False}
    trained = embedder.fit(
        PAIRS, out="runs", steps=2, validation=PAIRS[:3], batch_size=4, learning_rate=1e-3, options=options
    )
    run = tmp_path / "runs/version_0"
    assert {"config.yaml", "provenance.json", "checkpoints"} <= {path.name for path in run.iterdir()}
    assert weights_hash(embedder.backbone) == before
    assert np.abs(trained.encode(PAIRS[0][0]) - embedder.encode(PAIRS[0][0])).max() > 1e-4
    flags = ["--trainer.default_root_dir", "again"]
    assert cli.main(["fit", "--config", str(run / "config.yaml"), *flags]) == 0
    again = load_embedder("again")
    for name, value in trained.backbone.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    starts = json.loads((run / "provenance.json").read_text())["starts"]
    assert starts[0]["finished"]
    assert starts[0]["config"]["model"]["init_args"]["gradient_cache"] is False
    # What was trained goes on from a copy of itself.
    more = trained.fit(PAIRS, out="runs", steps=1, batch_size=4, options={"model.warmup_steps": 0})
    (base,) = (tmp_path / "runs").glob("base_*")
    assert embedrl.Embedder.from_pretrained(base, device="cpu").fingerprint == trained.fingerprint
    assert more.fingerprint != trained.fingerprint
    trained.save("saved")
    np.testing.assert_allclose(
        embedrl.Embedder.from_pretrained("saved", device="cpu").encode("a"), trained.encode("a"), atol=1e-5
    )
    with pytest.raises(ConfigError, match="folder saved: already there"):
        trained.save("saved")


@pytest.mark.slow
def test_a_mix_folder_trains_with_adapters(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = write_pairs(read_pairs(write_files(tmp_path / "files")), "colours", tmp_path)
    (folder,) = tmp_path.glob("colours_*")
    embedder = embedrl.Embedder.from_pretrained(checkpoint, device="cpu")
    lora = embedrl.models.LoRAOptions(r=2, dropout=0.0)
    trained = embedder.fit(folder, out="runs", steps=1, batch_size=4, lora=lora)
    config = yaml.safe_load((tmp_path / "runs/version_0/config.yaml").read_text())
    assert (
        config["data"]["init_args"]["mix"][0]["source"]["init_args"]["path"] == rows[0]["source"]["init_args"]["path"]
    )
    assert any("lora" in name for name in trained.backbone.state_dict())
    world = embedder.fit([MixRow(WorldSource("t2i", size=64))], out="runs", steps=1, batch_size=4)
    assert world.encode("a").shape == (128,)


def test_pairs_are_written_once_and_read_back(tmp_path):
    pairs = read_pairs([*PAIRS, ("a red one", PAIRS[0][1], [PAIRS[1][1]]), PAIRS[0]])
    (row,) = write_pairs(pairs, "pairs", tmp_path)
    assert write_pairs(pairs, "pairs", tmp_path) == [row]
    source = JsonlSource(**row["source"]["init_args"], cache_dir=str(tmp_path / "cache"))
    assert len(source) == len(pairs)
    assert source[6].negatives[0].images[0].load().tobytes() == PAIRS[1][1].tobytes()
    assert [source[i].query.text for i in range(2)] == [pair.query.text for pair in pairs[:2]]
    assert len(list(tmp_path.rglob("*.png"))) == len(COLOURS)  # equal pictures once


def test_pictures_that_are_files_stay_where_they_are(tmp_path):
    pairs = read_pairs(write_files(tmp_path / "files"))
    given = GivenPairs("x", pairs)
    assert (given.root, given.modality, len(given)) == (str(tmp_path / "files"), Modality.IMAGE, 6)
    (row,) = write_pairs(pairs, "x", tmp_path / "runs")
    assert list((tmp_path / "runs").rglob("*.png")) == []
    source = JsonlSource(**row["source"]["init_args"], cache_dir=str(tmp_path / "cache"))
    assert source[0].target.images[0].load().getpixel((0, 0)) == (255, 0, 0)


WRONG_PAIRS = {
    "none": ([], "no pairs"),
    "one item": (["a"], "pair 0 is 'a'"),
    "four": ([("a", "b", [], "c")], "pair 0 is"),
    "a missing file": ([("a", "b"), ("a", "gone.png")], r"pair 1: 'gone\.png' ends like a file"),
}


@pytest.mark.parametrize("case", WRONG_PAIRS)
def test_wrong_pairs_are_one_line(case):
    pairs, message = WRONG_PAIRS[case]
    with pytest.raises(DataError, match=message):
        read_pairs(pairs)
    pair = read_pairs([("a", "b")])[0]
    assert read_pairs([pair]) == [pair]
    assert isinstance(pair, Pair)


def test_large_models_train_adapters(checkpoint, tmp_path, monkeypatch):
    embedder = embedrl.Embedder.from_pretrained(checkpoint, device="cpu")

    def backbone(lora="auto"):
        return configuration(embedder, tmp_path, 10, 4, 1e-4, lora, 0)["model"]["init_args"]["backbone"]["init_args"]

    assert backbone()["lora"] is None
    assert backbone()["path"] == str(checkpoint)
    monkeypatch.setattr("embedrl.api.training._LARGE", 1000)
    assert backbone()["lora"] == {"r": 64, "alpha": 128, "dropout": 0.05, "scope": "language", "experts": None}
    assert backbone(None)["lora"] is None
    with pytest.raises(ConfigError, match="steps 0"):
        embedder.fit(PAIRS, out=tmp_path, steps=0)
    with pytest.raises(DataError, match="cannot be read"):
        embedder.fit(tmp_path / "no_mix", out=tmp_path, steps=1)

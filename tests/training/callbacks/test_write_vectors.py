"""`embedrl predict` writes what it embeds, once, and says where."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from processes import finish, launch
from toy_embedder import NamedTasks, ToyBackbone, ToyTokens

import embedrl
from embedrl import cli
from embedrl.data.render import RenderOptions, render
from embedrl.data.world import WorldTasks
from embedrl.errors import ConfigError
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.training.callbacks.write_vectors import WriteVectors

FAMILIES = ["vqa", "grounding"]


def config(
    folder: Path, poison: str = "", tasks: bool = True, kind: str = "ToyBackbone", loss: str = "InfoNCE"
) -> Path:
    world = {"split": "val", "size": 3, "families": FAMILIES}
    sources = [
        {"class_path": "embedrl.data.world.WorldTasks", "init_args": world},
        {"class_path": "toy_embedder.NamedTasks"},
    ]
    content = {
        "trainer": {"accelerator": "cpu", "devices": 1, "default_root_dir": str(folder / "runs")},
        "model": {
            "class_path": "embedrl.EmbedderModule",
            "init_args": {
                "backbone": {"class_path": f"toy_embedder.{kind}", "init_args": {"poison": poison}},
                "loss": {"class_path": f"embedrl.losses.{loss}"},
                "optimizer": {"class_path": "torch.optim.AdamW"},
            },
        },
        "data": {
            "class_path": "embedrl.EmbedderDataModule",
            "init_args": {
                "batch_size": 4,
                "sub_batch_size": 4,
                "micro_batch_size": 2,
                "encode_batch_size": 3,
                "render": {"tcot": "none"},
                "test": sources if tasks else [],
            },
        },
    }
    path = folder / "predict.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def check(folder: Path) -> None:
    """The vectors are those of the frozen Embedder, one for each side of each task."""
    rows = pq.read_table(folder).to_pylist()
    tasks = [*WorldTasks("val", 3, FAMILIES).tasks(), *NamedTasks().tasks()]
    embedder = FrozenEmbedder(ToyBackbone(), RenderOptions(tcot="none"))
    places = [
        (task.name, kind, i, side)
        for task in tasks
        for kind, sides in (("query", task.queries), ("candidate", task.candidates))
        for i, side in enumerate(sides)
    ]
    expected = embedder.embed([side for *_, side in places], ["x"] * len(places), torch.device("cpu"))
    by_place = {(row["task"], row["kind"], row["position"]): row for row in rows}
    assert len(by_place) == len(rows) == len(places)
    for (name, kind, i, _), vector in zip(places, expected, strict=True):
        row = by_place[name, kind, i]
        torch.testing.assert_close(torch.tensor(row["vector"]), vector, rtol=0, atol=1e-6)
        assert row["id"] == (["q/1", "../q"][i] if (name, kind) == ("named", "query") else str(i))


def test_predict_writes_a_vector_a_token(tmp_path):
    path = config(tmp_path, kind="ToyTokens", loss="MaxSimInfoNCE")
    assert cli.main(["predict", "--config", str(path)]) == 0
    rows = pq.read_table(tmp_path / "runs/predict_0/vectors").to_pylist()
    backbone = ToyTokens()
    backbone.build()
    for row in (row for row in rows if row["task"] == "named"):
        task = next(iter(NamedTasks().tasks()))
        side = (task.queries if row["kind"] == "query" else task.candidates)[row["position"]]
        with torch.no_grad():
            (expected,) = backbone.encode(backbone.preprocessor()([render(side, RenderOptions(tcot="none"))]))
        torch.testing.assert_close(torch.tensor(row["vector"]), expected, rtol=0, atol=1e-6)
    assert {len(row["vector"]) for row in rows} == {1, 2, 3}


def test_predict_writes_vectors_with_their_keys_and_says_where(tmp_path, capsys):
    path = config(tmp_path)
    assert cli.main(["predict", "--config", str(path)]) == 0
    folder = tmp_path / "runs/predict_0/vectors"
    assert f"Wrote 23 vectors of length 16 of 3 tasks to {folder}" in capsys.readouterr().out
    assert [file.name for file in folder.iterdir()] == ["rank_0.parquet"]
    check(folder)
    assert cli.main(["predict", "--config", str(path)]) == 0  # a run of its own
    check(tmp_path / "runs/predict_1/vectors")


def test_vectors_are_never_overwritten(tmp_path, capsys):
    words = ["predict", "--config", str(config(tmp_path)), "--trainer.logger", "false"]
    assert cli.main(words) == 0
    [file] = (tmp_path / "runs/vectors").iterdir()
    before = file.read_bytes()
    assert cli.main(words) == 2
    assert f"{tmp_path}/runs/vectors: is there already, and vectors are never overwritten" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_a_run_that_fails_leaves_no_vectors(tmp_path, capsys):
    assert cli.main(["predict", "--config", str(config(tmp_path, poison="b"))]) == 1
    assert "vectors are not finite, the first of " in capsys.readouterr().err
    assert not (tmp_path / "runs/predict_0/vectors").exists()


def test_nothing_to_embed_is_an_error(tmp_path, capsys):
    assert cli.main(["predict", "--config", str(config(tmp_path, tasks=False))]) == 2
    assert "nothing to embed: give the data module tasks (data.test)" in capsys.readouterr().err


@pytest.mark.parametrize("outputs", [None, torch.zeros(2), {"vectors": torch.zeros(1, 2)}])
def test_predictions_of_another_kind_are_refused(tmp_path, outputs):
    writer = WriteVectors(tmp_path / "out")
    trainer = Trainer(default_root_dir=tmp_path, logger=False, enable_progress_bar=False, accelerator="cpu")
    writer.on_predict_start(trainer, None)
    with pytest.raises(ConfigError, match=r"NoneType\.predict_step returns no `items` and `vectors`"):
        writer.on_predict_batch_end(trainer, None, outputs, None, 0)


@pytest.mark.slow
@pytest.mark.dist
def test_each_of_two_processes_writes_its_own_file(tmp_path):
    main = Path(embedrl.__file__).parent / "__main__.py"
    words = ["predict", "--config", config(tmp_path), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    finish(launch(main, *words, log=tmp_path), tmp_path)
    folder = tmp_path / "runs/predict_0/vectors"
    assert sorted(file.name for file in folder.iterdir()) == ["rank_0.parquet", "rank_1.parquet"]
    check(folder)
    assert (tmp_path / "__main__.0.log").read_text().count("Wrote 23 vectors") == 1
    assert "Wrote" not in (tmp_path / "__main__.1.log").read_text()

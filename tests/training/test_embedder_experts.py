"""An Embedder with LoRA experts: several processes, resuming, one expert, export."""

import copy

import dist_experts
import pytest
import torch
from dist_embedder import train
from processes import WORLD, finish, launch, weights
from tiny_runs import TRAININGS, fit

import embedrl
from embedrl.cli import main
from embedrl.errors import ConfigError
from embedrl.losses.expert_aware import ExpertAwareInfoNCE
from embedrl.models.qwen_vl.backbone import QwenVLBackbone

EXPERTS = {"count": 3, "top_k": 2, "balance": 0.05}


def model(experts, aware=False, **lora):
    """The model section of the tiny recipe with experts."""
    section = copy.deepcopy(TRAININGS["Embedder"]["model"])
    section["init_args"]["backbone"]["init_args"]["lora"] |= {"experts": experts, **lora}
    if aware:
        section["init_args"]["loss"] = {
            "class_path": "embedrl.losses.ExpertAwareInfoNCE",
            "init_args": {"beta": 2.0, "first_stage": 0.5, "temperature": 0.05},
        }
    return section


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Four steps in one run; the last two, in the second stage of the loss, in another, too."""
    out = tmp_path_factory.mktemp("experts")
    section, data = model(EXPERTS, aware=True), copy.deepcopy(TRAININGS["Embedder"]["data"])
    data["init_args"] |= {"batch_size": 4, "micro_batch_size": 2}
    options = {"model": section, "data": data}
    steps = {"max_steps": 4, "limit_val_batches": 0}
    kept = {"every_n_train_steps": 2, "save_top_k": -1, "dirpath": str(out / "kept"), "filename": "{step}"}
    callbacks = [
        {"class_path": "embedrl.training.ExportModel", "init_args": {"out": str(out / "model")}},
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": kept},
    ]
    whole = fit("Embedder", out / "whole", **options, trainer={**steps, "callbacks": callbacks})
    rest = fit("Embedder", out / "rest", "--ckpt_path", str(out / "kept/step=2.ckpt"), **options, trainer=steps)
    for run in (whole, rest):
        assert run.code == 0, run.err
    return out, whole, rest


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_is_the_one_that_was_not_interrupted(trained):
    _, whole, rest = trained
    expected, got = (weights(run.folder / "version_0/checkpoints/last.ckpt") for run in (whole, rest))
    assert any("lora_router" in name for name in expected)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_export_is_embedrls_own_and_loads_anywhere(trained, tmp_path, capsys):
    out, whole, _ = trained
    folder = out / "model"
    assert "the experts and routers alone, which cannot be merged" in whole.err
    assert "Only embedrl loads them" in (folder / "README.md").read_text()
    checkpoint = whole.folder / "version_0/checkpoints/last.ckpt"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "merged")]) == 2
    assert "cannot be merged" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "own"), "--adapter", "true"]) == 0
    vectors = [
        embedrl.Embedder.from_pretrained(str(path)).encode(["a red star"]) for path in (folder, tmp_path / "own")
    ]
    assert (vectors[0] == vectors[1]).all()
    base = embedrl.Embedder.from_pretrained("embedrl:tiny").encode(["a red star"])
    assert abs(vectors[0] - base).max() > 1e-4
    task = "{class_path: embedrl.data.world.WorldTasks, init_args: {split: val, size: 2, families: [vqa]}}"
    words = ["eval", "--benchmark", "world", "--tasks", f"[{task}]", "--checkpoint", str(folder)]
    assert main([*words, "--out", str(tmp_path / "eval"), "--render.tcot", "none"]) == 0, capsys.readouterr().err
    assert main(["merge", "--models", f"[{folder},{tmp_path / 'own'}]", "--out", str(tmp_path / "m")]) == 1
    assert "an adapter with experts" in capsys.readouterr().err
    from sentence_transformers import SentenceTransformer

    with pytest.raises(KeyError, match="EMBEDRL_EXPERTS"):
        SentenceTransformer(str(folder))
    again = model(None)
    again["init_args"]["backbone"]["init_args"] |= {"path": str(folder), "lora": None}
    run = fit("Embedder", tmp_path / "again", model=again)
    assert run.code == 2
    assert "has nothing to train" in run.line
    adapted = QwenVLBackbone(str(folder), lora=embedrl.models.LoRAOptions(r=2))
    with pytest.raises(ConfigError, match="takes no further one"):
        adapted.build()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_one_expert_trains_as_lora_and_is_merged(tmp_path, capsys):
    runs = {}
    for name, experts in (("lora", None), ("one", {"count": 1, "top_k": 1, "balance": 0.05})):
        runs[name] = fit("Embedder", tmp_path / name, model=model(experts), trainer={"limit_val_batches": 0})
        assert runs[name].code == 0, runs[name].err
    expected, got = (weights(run.folder / "version_0/checkpoints/last.ckpt") for run in runs.values())
    assert expected.keys() == got.keys()
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
    checkpoint = runs["one"].folder / "version_0/checkpoints/last.ckpt"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "merged")]) == 0
    assert (tmp_path / "merged/model.safetensors").is_file()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Two processes train; one trains here."""
    out = tmp_path_factory.mktemp("ranks")
    processes = launch("dist_experts", out, log=out)
    one = dist_experts.run("auto", 1, out / "one.ckpt")
    finish(processes, out)
    return out, one


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one(ranks, strategy):
    """The second one has a micro-batch fewer, and repeats its last, which does not count."""
    out, one = ranks
    expected, got = weights(out / "one.ckpt"), weights(out / f"{strategy}.ckpt")
    assert one["logged"]["train/expert_beta"] == 4.0
    assert sum(one["logged"][f"train/router/load/{i}"] for i in range(3)) == pytest.approx(1)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=5e-5)
    for rank in range(WORLD):
        result = torch.load(out / f"{strategy}.{rank}.pt", weights_only=True)
        assert result["logged"] == pytest.approx(one["logged"], rel=1e-4, abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_micro_batches_change_nothing():
    loss = ExpertAwareInfoNCE(4.0, 0.0, 0.1)
    options = {"loss": loss, "steps": 1}
    runs = [train("auto", 1, backbone=dist_experts.FakeExperts(), micro_batch_size=n, **options) for n in (3, 100)]
    (cached, first), (whole, second) = runs
    for name, value in second.state_dict().items():
        torch.testing.assert_close(first.state_dict()[name], value, rtol=1e-4, atol=5e-5)
    for name in ("train/router/balance", "train/router/entropy", "train/loss"):
        assert cached.logged_metrics[name] == pytest.approx(float(whole.logged_metrics[name]), rel=1e-4)
    assert 0 < float(whole.logged_metrics["train/router/entropy"]) <= 1.0986123

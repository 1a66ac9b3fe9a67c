import signal
from pathlib import Path

import pytest
import torch
import yaml
from cli_process import logged
from open_clip.loss import ClipLoss
from processes import command, finish, launch, weights
from unified_runs import BACKBONE, chats, info_nce, reasoning, recipe

import embedrl
from embedrl.cli import main
from embedrl.data.render import RenderOptions, render
from embedrl.data.world import WorldSource
from embedrl.models.sampling import SampledReply
from embedrl.training.trained_model import load_embedder, load_module, load_reasoner

pytestmark = pytest.mark.slow  # what is cheap of it is tested beside the losses and the model

CURVES = ("train/loss", "train/loss_disc", "train/loss_gen", "train/loss_reasoning_query", "train/grad_norm")


def fit(path: Path, *words: str) -> Path:
    """Run a recipe in this process; returns the run's folder."""
    assert main(["fit", "--config", str(path), *words]) == 0
    return Path(yaml.safe_load(path.read_text())["trainer"]["default_root_dir"]) / "version_0"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two steps with gradient caching."""
    return fit(recipe(tmp_path_factory.mktemp("unified"), {"limit_val_batches": 0}))


def saved(run: Path) -> dict:
    return weights(run / "checkpoints/last.ckpt")


def check_same(ours: dict, theirs: dict, **options) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], **options)


def test_gradient_caching_changes_nothing(run, tmp_path):
    """Micro-batches of four sides, read twice, as all sides at once with their graphs; dropout is off in both."""
    off = {"backbone": {"lora": BACKBONE["init_args"]["lora"] | {"dropout": 0.0}}}
    small = recipe(tmp_path / "small", {"limit_val_batches": 0}, **off)
    whole = recipe(
        tmp_path / "whole", {"limit_val_batches": 0}, {"gradient_cache": False}, {"micro_batch_size": 64}, **off
    )
    runs = [fit(path) for path in (small, whole)]
    check_same(*map(saved, runs), atol=1e-5, rtol=0)
    for curve in CURVES:
        first, second = (logged(one, curve) for one in runs)
        assert sorted(first) == [0, 1], curve
        for step in first:
            assert first[step] == pytest.approx(second[step], abs=1e-4), curve


def test_a_checkpoint_is_an_embedder_and_a_reasoner(run, tmp_path):
    checkpoint = str(run / "checkpoints/last.ckpt")
    assert main(["export", "--checkpoint", checkpoint, "--out", str(tmp_path / "model")]) == 0
    with torch.no_grad():
        ours = [
            [model.encode(model.preprocessor()(chats(options))) for options in (RenderOptions(), RenderOptions("none"))]
            for model in (load_embedder(checkpoint), load_reasoner(str(tmp_path / "model")))
        ]
    for first, second in zip(*ours, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    folder = str(tmp_path / "model")
    assert "A model that reasons and embeds," in (tmp_path / "model/README.md").read_text()
    fast, own = (embedrl.Embedder.from_pretrained(folder, reasoner=one) for one in (None, folder))
    own.reasoner.max_new_tokens = 3
    vectors = [embedder.encode(["a red star"]) for embedder in (fast, own)]
    assert vectors[0].shape == vectors[1].shape
    assert abs(vectors[0] - vectors[1]).max() > 1e-4


def test_one_pass_gives_open_clips_and_transformers_losses(run):
    """On the module itself, with the model after two steps."""
    module = load_module(run / "checkpoints/last.ckpt")
    inputs = module.backbone.preprocessor().for_training()(chats())
    with torch.no_grad():
        outputs = module.learn(inputs)
        plain = [
            module.backbone.network(**module.backbone._tensors(one), labels=one["labels"]).loss
            for one in (module.backbone.preprocessor()(part) for part in (chats()[:3], chats()[3:]))
        ]
    disc, gen = outputs[:, :-2].chunk(2, dim=1)
    from embedrl.data.collate import ContrastiveBatch

    batch = ContrastiveBatch(
        [], torch.arange(6), 3, [*"abc"], [*"def"], [0] * 3, [], ["d"] * 3, [*"123"], [0.0] * 3, []
    )
    total, parts = module.contrast(outputs, batch)
    for name, vectors in (("disc", disc), ("gen", gen)):
        assert parts[f"loss_{name}"] == pytest.approx(float(ClipLoss()(vectors[:3], vectors[3:], 20.0)), abs=1e-5)
    for role, loss in zip(("query", "target"), plain, strict=True):
        assert parts[f"loss_reasoning_{role}"] == pytest.approx(float(loss), abs=1e-5)
    assert float(total) == pytest.approx(sum(float(v) for k, v in parts.items() if k.startswith("loss_")), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"losses": []}}, "model.losses is empty"),
        ({"backbone": {"layout": {"disc": False}}}, "set backbone.layout.disc: true"),
        ({"backbone": {"layout": {"disc": False, "gen": False}}}, "layout.disc and layout.gen are both false"),
        ({"data": {"reasoned": ["both"]}}, "data.reasoned"),
        ({"data": {"reasoned": []}}, "data.reasoned is []: give query, target or both"),
        ({"backbone": {"max_length": 60}}, "more than max_length=60"),
        (
            {"backbone": {"lora": BACKBONE["init_args"]["lora"] | {"experts": {"count": 2}}}},
            "model.backbone.lora.experts: routers are balanced at one vector a side",
        ),
        (
            {
                "model": {"losses": [info_nce("disc")], "rationale_for_contrast": "self"},
                "backbone": {"layout": {"gen": False}},
            },
            "set backbone.layout.gen: true",
        ),
    ],
)
def test_bad_recipes_get_one_line(changes, message, tmp_path, capsys):
    assert main(["fit", "--config", str(recipe(tmp_path, **changes))]) != 0
    [line] = [text for text in capsys.readouterr().err.splitlines() if text.startswith("embedrl: error: ")]
    assert message in line


def test_a_run_killed_and_resumed_is_the_run(tmp_path):
    """SIGKILL after the fourth step of six; the checkpoint is of the third. With dropout and noise on the evidence."""
    trainer = {"max_steps": 6, "limit_val_batches": 0}
    more = {"data": {"render": {"jitter": 60}}, "checkpoint": {"every_n_steps": 3}}
    kill = {"class_path": "killing.KillAt", "init_args": {"step": 4, "marker": str(tmp_path / "killed")}}
    whole = recipe(tmp_path / "whole", trainer, **more)
    broken = recipe(tmp_path / "broken", trainer | {"callbacks": [kill]}, **more)
    untouched = command(["fit", "--config", str(whole)], tmp_path / "whole.log")
    killed = command(["fit", "--config", str(broken)], tmp_path / "broken.log")
    killed.join(240)
    assert killed.exitcode == -signal.SIGKILL, (tmp_path / "broken.log").read_text()[-3000:]
    resumed = command(["fit", "--config", str(broken), "--ckpt_path", "last"], tmp_path / "broken.log")
    for process in (untouched, resumed):
        process.join(240)
        assert process.exitcode == 0, (tmp_path / "broken.log").read_text()[-3000:]
    folders = [path.parent / "runs/version_0" for path in (whole, broken)]
    check_same(*map(saved, folders), atol=0, rtol=0)
    for curve in CURVES:
        first, second = (logged(folder, curve) for folder in folders)
        assert sorted(first) == sorted(second) == list(range(6))
        assert all(set(first[step]) == set(second[step]) for step in first), curve


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", {"class_path": "embedrl.distributed.FSDP2Strategy"}], ids=["ddp", "fsdp2"])
def test_two_processes_equal_one(strategy, tmp_path):
    off = {"backbone": {"lora": BACKBONE["init_args"]["lora"] | {"dropout": 0.0}}}
    sgd = {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}}
    one = fit(recipe(tmp_path / "one", {"limit_val_batches": 0}, sgd, **off))
    two = recipe(tmp_path / "two", {"limit_val_batches": 0, "devices": 2, "strategy": strategy}, sgd, **off)
    finish(launch(Path(embedrl.__file__).parent / "__main__.py", "fit", "--config", two, log=tmp_path), tmp_path)
    check_same(saved(one), saved(tmp_path / "two/runs/version_0"), atol=1e-5, rtol=0)


RGE = {
    "data": {"reasoned": ["query"], "render": {"cues": "printed"}},
    "backbone": {"layout": {"disc": False, "request": ""}, "lora": BACKBONE["init_args"]["lora"] | {"dropout": 0.0}},
}


def test_rge_takes_vectors_behind_given_or_own_rationales(tmp_path):
    """The cross-entropy of the first step is that of the given ones either way; the vectors are not."""
    losses = {}
    for whose in ("given", "self"):
        model = {"losses": [info_nce("gen"), reasoning("query")], "rationale_for_contrast": whose, "max_new_tokens": 3}
        run = fit(recipe(tmp_path / whose, {"max_steps": 1, "limit_val_batches": 1}, model, **RGE))
        losses[whose] = [min(logged(run, f"train/loss_{part}")[0]) for part in ("reasoning_query", "gen")]
        assert load_module(run / "checkpoints/last.ckpt").rationale_for_contrast == whose
    assert losses["given"][0] == pytest.approx(losses["self"][0], abs=1e-6)
    assert abs(losses["given"][1] - losses["self"][1]) > 1e-5


def test_vectors_behind_own_rationales_are_those_behind_what_was_written(run):
    """Against the side read anew with what the model wrote, whether it ended or was cut off."""
    model = load_module(run / "checkpoints/last.ckpt").backbone
    sides = [pair.query for pair in (WorldSource(family="vqa", teacher="perfect")[i] for i in range(3))]
    raw = [render(side, RenderOptions(tcot="none")) for side in sides]
    prompts = model.preprocessor().prompts(raw)
    gen = model.token_ids[1]
    star = tuple(model.processor.tokenizer("red star", add_special_tokens=False)["input_ids"])
    replies = [SampledReply(tokens, (), "", False) for tokens in ((*star, gen), star, (gen,))]
    chats = []
    for side, text, cut in zip(sides, ("red star", "red star", ""), (False, True, False), strict=True):
        [chat, _] = render(side, RenderOptions(tcot="none"))
        chats.append(
            [chat | {"content": [*chat["content"], {"type": "text", "text": text, "reasoning": True, "cut": cut}]}]
        )
    with torch.no_grad():
        vectors = model.reply_vectors(model.pack_replies(prompts, replies))
        torch.testing.assert_close(vectors, model.encode(model.preprocessor()(chats)), atol=1e-5, rtol=0)


def test_evidence_of_a_reasoning_that_is_not_used_is_refused(tmp_path, capsys):
    changes = RGE | {"data": {"reasoned": ["query"]}}
    model = {"losses": [info_nce("gen")], "rationale_for_contrast": "self"}
    assert main(["fit", "--config", str(recipe(tmp_path, {}, model, **changes))]) != 0
    assert "set data.render.cues: printed" in capsys.readouterr().err

"""`embedrl reason` through the command line: what it prints and draws, and one line for whatever is wrong."""

import functools
import re
from pathlib import Path

import lightning
import pytest
import torch
from PIL import Image

from embedrl.cli import main
from embedrl.data.world import WorldSource
from embedrl.inference.tcot_writer import write_tcots
from embedrl.losses.info_nce import InfoNCE
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.tcot.parser import build, parse
from embedrl.training.embedder import EmbedderModule
from embedrl.training.reasoner import ReasonerModule
from embedrl.types import Modality, RetrievalTask, Side
from embedrl.visualization.drawing import ORANGE

ADAMW = functools.partial(torch.optim.AdamW, lr=1e-3)
BASE = ["--checkpoint", "embedrl:world_base", "--style", "brief", "--device", "cpu", "--max_new_tokens", "16"]


@pytest.fixture(scope="module")
def base():
    generator = QwenVLReasoner("embedrl:world_base")
    generator.build()
    return generator.eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a picture, a video's frames, checkpoints good and bad."""
    folder = tmp_path_factory.mktemp("reason")
    WorldSource("vqa")[0].query.images[0].load().save(folder / "scene.png")
    (folder / "frames").mkdir()
    for i, frame in enumerate(WorldSource("video_qa")[0].query.frames):
        frame.load().save(folder / "frames" / f"f{i}.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "empty").mkdir()
    lightning.seed_everything(0, verbose=False)
    save(ReasonerModule(QwenVLReasoner("embedrl:tiny"), ADAMW), folder / "runs/version_0/checkpoints/last.ckpt")
    embedder = EmbedderModule(QwenVLBackbone("embedrl:tiny"), InfoNCE(0.05), ADAMW)
    save(embedder, folder / "embedder.ckpt")
    (folder / "embedder").mkdir()
    embedder.backbone.export(folder / "embedder")
    return folder


def save(module, path):
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    module.configure_model()
    trainer.save_checkpoint(path)


@pytest.fixture
def reason(place, monkeypatch, capsys):
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(place)
        monkeypatch.delenv("EMBEDRL_DEBUG", raising=False)
        capsys.readouterr()
        code = main(["reason", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


class Loaded:
    def __init__(self, path) -> None:
        self.path, self.name = path, str(path)

    def load(self):
        return Image.open(self.path).convert("RGB")


def test_the_reply_is_the_one_that_validation_would_see(reason, place, base):
    side = Side("what is at the top left ?", (Loaded(place / "scene.png"),))
    task = RetrievalTask("t", [side], [Side("a")], [{0: 1.0}])
    (written,) = write_tcots([task], base, torch.device("cpu"), "brief", 1, 16)
    code, out, error = reason(*BASE, "--image", "scene.png", "--text", side.text)
    assert code == 0
    assert re.fullmatch(r"embedrl: embedrl:world_base knows the built-in world alone: .*Qwen3-VL-2B-Instruct\n", error)
    reply, _, rest = out.partition("\n\nproblems: ")
    assert reply == written.queries[0].tcot
    problems = parse(reply, Modality.IMAGE).problems
    assert problems, "the base has not learned T-CoTs"
    assert rest.splitlines()[0] == str(len(problems))
    assert all(f"  {problem.code}: {problem.message}\n" in rest for problem in problems)
    code, strictly, error = reason(*BASE, "--image", "scene.png", "--text", side.text, "--strict", "true")
    assert (code, strictly) == (1, out)
    assert "--strict: the T-CoT departs from the template" in error.splitlines()[-1]


def test_the_picture_shows_the_evidence(reason, place, monkeypatch):
    made = {
        "--image": build(Modality.IMAGE, "look", "so", "a star", boxes=[(100, 100, 400, 400)]),
        "--frames": build(Modality.VIDEO, "look", "so", "a star", frames=[2, 3]),
        "--text": build(Modality.TEXT, "look", "so", "a star", keywords=["red star"]),
    }
    given = {"--image": "scene.png", "--frames": "frames", "--text": "find the red star"}
    for flag, tcot in made.items():
        monkeypatch.setattr(QwenVLReasoner, "generate", lambda *_, tcot=tcot, **__: [tcot.render()])
        code, out, _ = reason(*BASE, flag, given[flag], "--out", f"out/{flag}.png")
        assert code == 0
        assert out == f"{tcot.render()}\n\nproblems: none\nevidence: out/{flag}.png\n"
        colors = {color: n for n, color in Image.open(place / f"out/{flag}.png").getcolors(2**20)}
        assert colors[ORANGE] > 100


@pytest.mark.parametrize("checkpoint", ["runs", "runs/version_0/checkpoints/last.ckpt"])
def test_a_runs_checkpoint(reason, checkpoint):
    code, out, _ = reason("--checkpoint", checkpoint, "--text", "a star", "--style", "brief", "--max_new_tokens", "3")
    assert code == 0
    assert "problems: " in out


WRONG = {
    "no input": (2, [], "nothing to reason about: give --text, --image or --frames"),
    "blank text": (2, ["--text", "  "], "nothing to reason about"),
    "missing image": (1, ["--image", "gone.png"], "--image gone.png: no such file"),
    "no image": (1, ["--image", "notes.txt"], "--image: cannot open picture notes.txt"),
    "missing frames": (1, ["--frames", "gone"], "--frames gone: no such folder"),
    "no frames": (1, ["--frames", "empty"], "--frames: frame folder empty holds no pictures"),
    "both": (2, ["--frames", "frames", "--image", "scene.png"], "--image and --frames: "),
    "role": (2, ["--text", "x", "--role", "querry"], "--role: "),
    "length": (2, ["--text", "x", "--max_new_tokens", "0"], "--max_new_tokens 0: give 1 or more"),
    "count": (2, ["--frames", "frames", "--num_frames", "0"], "--num_frames 0: give 1 or more"),
    "name": (2, ["--text", "x", "--out", "a.txt"], "--out a.txt: give a name that ends with .png"),
    "missing folder": (1, ["--text", "x", "--checkpoint", "./gone"], "--checkpoint ./gone: no such folder"),
    "missing file": (1, ["--text", "x", "--checkpoint", "gone.ckpt"], "--checkpoint gone.ckpt: no such file"),
    "no model": (1, ["--text", "x", "--checkpoint", "empty"], "--checkpoint empty: neither a model's folder"),
    "no checkpoint": (1, ["--text", "x", "--checkpoint", "notes.txt"], "--checkpoint notes.txt: not a checkpoint"),
    "Embedder's run": (1, ["--text", "x", "--checkpoint", "embedder.ckpt"], "embedder.ckpt: an Embedder's"),
    "Embedder": (1, ["--text", "x", "--checkpoint", "embedder"], "--checkpoint embedder: an Embedder's"),
    "unknown name": (1, ["--text", "x", "--checkpoint", "embedrl:x"], "--checkpoint embedrl:x is no shipped"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(case, reason):
    expected, words, message = WRONG[case]
    code, out, err = reason(*([] if "--checkpoint" in words else BASE), *words)
    assert code == expected, err
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("embedrl: error: ")
    assert message in line


def test_without_a_gpu_cuda_is_refused(reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = reason("--checkpoint", "embedrl:world_base", "--text", "x", "--device", "cuda")
    assert code == 2
    assert "--device cuda: torch finds no GPU" in err


@pytest.mark.gpu
def test_on_a_gpu(reason):
    for device in ("cuda", "auto"):
        code, out, _ = reason(*BASE, "--image", "scene.png", "--device", device, "--dtype", "bfloat16")
        assert code == 0
        assert "problems: " in out

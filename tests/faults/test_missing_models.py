"""A model's folder that is not there: one line says so, and which command writes it, wherever a model is named."""

import pytest
from recipes import CONFIGS

from embedrl.cli import main
from embedrl.errors import CheckpointError
from embedrl.inference.sentence_module import SentenceTransformersModule
from embedrl.models.open_reasoner import reasoner
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.models.vlm.reasoner import VLMReasoner
from embedrl.training.trained_model import load_embedder, load_reasoner, load_trained

EMBEDDER, REASONER = (f"runs/quickstart_{name}/model" for name in ("embedder", "reasoner"))
OWN = "runs/mine/model"
READERS = {
    "Embedder": lambda path: QwenVLBackbone(path).build(),
    "Embedder of any family": lambda path: VLMBackbone(path).build(),
    "policy": lambda path: QwenVLReasoner(path).build_on_meta(),
    "policy of any family": lambda path: VLMReasoner(path).build(),
    "judge": reasoner,
    "an Embedder's checkpoint": load_embedder,
    "a Reasoner's checkpoint": load_reasoner,
    "a checkpoint": load_trained,
    "sentence-transformers": SentenceTransformersModule,
}


def says(path):
    name = path.removeprefix("runs/quickstart_").removesuffix("/model")
    command = f"export --checkpoint RUN --out {path}" if path == OWN else f"fit --config configs/quickstart/{name}.yaml"
    return f"{path}: no such folder: check the path, or write it with `embedrl {command}`"


@pytest.mark.parametrize("path", [EMBEDDER, REASONER, OWN])
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_says_what_writes_the_folder(tmp_path, monkeypatch, reader, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        READERS[reader](path)
    assert str(caught.value).removeprefix("--checkpoint ").startswith(f"{says(path)}; ")


@pytest.mark.parametrize("reader", READERS)
def test_what_may_be_on_the_hub_is_looked_for_there(tmp_path, monkeypatch, reader):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"^(--checkpoint )?runs/model: no such (folder, and on the Hub|file or f)"
    ):
        READERS[reader]("runs/model")


QUICK = [word for name in ("egrl",) for word in ("--config", str(CONFIGS / f"quickstart/{name}.yaml"))]
BACKBONE = str(CONFIGS / "parts/backbone/quickstart_embedder.yaml")
COMMANDS = {
    "eval": (["--benchmark", "world", "--checkpoint", EMBEDDER, "--out", "out"], EMBEDDER),
    "eval with its Embedder in a YAML": (["--config", str(CONFIGS / "eval/world.yaml"), "--backbone", BACKBONE,
                                          "--out", "out"], EMBEDDER),
    "export": (["--checkpoint", OWN, "--out", "out"], OWN),
    "reason": (["--checkpoint", REASONER, "--text", "x"], REASONER),
    "merge": (["--models", f"[{EMBEDDER}, {OWN}]", "--out", "out"], EMBEDDER),
    "plan": (QUICK, REASONER),
    "fit": (QUICK, REASONER),
    "fit with a frozen Embedder": ([*QUICK, "--model.init_args.generator.init_args.path", "embedrl:tiny"], EMBEDDER),
}  # fmt: skip


SLOW = ("plan", "fit", "eval with")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case.startswith(SLOW) else []) for case in COMMANDS]
)
def test_a_command_says_it_in_one_line(tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    words, path = COMMANDS[case]
    assert main([case.split()[0], *words]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.removeprefix("embedrl: error: ").removeprefix("--checkpoint ").startswith(says(path))

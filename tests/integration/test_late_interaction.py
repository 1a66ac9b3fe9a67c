"""One vector a token, from the recipe to the evaluation, by the command line."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from cli_process import logged
from qwen_helpers import EMB, picture, text, user
from recipes import CONFIGS, QUICKSTART

from embedrl.cli import main
from embedrl.data.render import SUMMARIZE
from embedrl.losses.maxsim import maxsim
from embedrl.models.late_interaction import LateInteraction
from embedrl.training.trained_model import load_embedder

BACKBONE, LOSS = (str(CONFIGS / f"parts/{kind}/late_interaction.yaml") for kind in ("backbone", "loss"))
TASKS = [
    {
        "class_path": "embedrl.data.world.WorldTasks",
        "init_args": {"split": "val", "size": 6, "families": ["vqa", "composed"]},
    }
]
SMALL = {
    "trainer": {
        "max_steps": 2, "val_check_interval": 2, "enable_progress_bar": False, "enable_model_summary": False,
        "log_every_n_steps": 1,
    },
    "data": {"init_args": {"val": TASKS, "test": TASKS, "batch_size": 4, "sub_batch_size": 2, "micro_batch_size": 8}},
}  # fmt: skip


def run(*args) -> int:
    return main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("late")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        flags = ["--config", QUICKSTART, "--config", folder / "small.yaml"]
        assert run("fit", *flags, "--model.backbone", BACKBONE, "--model.loss", LOSS) == 0
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_figures_of_training_are_those_of_eval(trained, monkeypatch):
    monkeypatch.chdir(trained)
    version = trained / "runs/quickstart_embedder/version_0"
    for number, checkpoint in enumerate(
        (version / "checkpoints/last.ckpt", trained / "runs/quickstart_embedder/model")
    ):
        flags = ["--checkpoint", checkpoint, "--tasks", json.dumps(TASKS), "--out", f"eval_{number}"]
        assert run("eval", "--config", CONFIGS / "eval/world.yaml", *flags) == 0
        for result in json.loads(Path(f"eval_{number}/report.json").read_text())["sets"]:
            for name in ("hit@1", "hit@5"):
                ((value,),) = logged(version, f"val/{result['name']}/{name}").values()
                assert result["metrics"][name] == pytest.approx(value, abs=1e-6)
    assert (version / "retrieval_grid").is_dir()


@pytest.mark.slow
def test_the_run_loads_again_in_both_forms(trained):
    models = [load_embedder(str(trained / "runs/quickstart_embedder" / name)) for name in ("version_0", "model")]
    assert all(isinstance(model, LateInteraction) and model.budget == 32 for model in models)
    for (name, a), (other, b) in zip(*(model.named_parameters() for model in models), strict=True):
        assert name == other
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.slow
def test_the_snippet_of_the_documentation_scores_pages_as_embedrl_does(trained):
    (code,) = re.findall(
        r"```python\n(.*?)```", (CONFIGS.parent / "docs/how_to/late_interaction.md").read_text(), re.DOTALL
    )
    names: dict = {}
    exec(code, names)
    folder, pictures = str(trained / "runs/quickstart_embedder/model"), [picture(0), picture(1, (60, 100))]
    scores = names["scores_of"](folder, ["the red star"], pictures, 32)
    model = load_embedder(folder)
    chats = [[user(text("the red star")), EMB], *([user({"type": "image", "image": x}), EMB] for x in pictures)]
    chats = [[{"role": "user", "content": [*chat[0]["content"], text("\n" * (i == 0) + SUMMARIZE)]}, EMB]
             for i, chat in enumerate(chats)]  # fmt: skip
    with torch.no_grad():
        vectors = model.encode(model.preprocessor()(chats))
    torch.testing.assert_close(scores, maxsim(vectors[:1], vectors[1:]), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.loss", LOSS], "model.loss MaxSimInfoNCE compares one vector a token"),
        (["--model.backbone", BACKBONE, "--model.loss", LOSS, "--model.backbone.budget", "0"], "budget is 0"),
    ],
)
def test_what_does_not_fit_is_one_line_at_the_start(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("fit", "--config", QUICKSTART, *flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not (tmp_path / "runs").exists()

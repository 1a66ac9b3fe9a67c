"""Every loss of configs/parts/loss trains the quickstart's Embedder, is written to its checkpoint and read again."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from embedrl.cli import main
from embedrl.models.exported import matryoshka_dims
from embedrl.training.checkpoints import config_form
from embedrl.training.trained_model import load_module

CONFIGS = Path(__file__).parents[2] / "configs"
LOSSES = sorted(path.stem for path in (CONFIGS / "parts/loss").glob("*.yaml"))
NOTES = {
    "red star top left": "a red star at top left",
    "blue ring below": "a blue ring below",
    "green cross in the middle": "a green cross in the middle",
    "white moon right": "a white moon at right",
}


def graded(folder: Path) -> Path:
    """A mix of texts with one scored negative each."""
    texts = list(NOTES.items())
    rows = [
        {
            "id": str(i),
            "query": {"text": query},
            "target": {"text": target},
            "negatives": [{"text": texts[i - 1][1]}],
            "score": 0.9 - i / 10,
            "negative_scores": [0.1 + i / 10],
        }
        for i, (query, target) in enumerate(texts)
    ]
    (folder / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"class_path": "embedrl.data.JsonlSource", "init_args": {"path": str(folder / "notes.jsonl")}}
    (folder / "mix.yaml").write_text(yaml.safe_dump([{"source": source, "weight": 1.0}]))
    return folder / "mix.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.filterwarnings("ignore")
def test_a_loss_trains_and_is_rebuilt(loss, tmp_path, capsys):
    words = ["--config", str(CONFIGS / "quickstart/embedder.yaml")]
    words += ["--model.init_args.loss", str(CONFIGS / f"parts/loss/{loss}.yaml")]
    words += ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.callbacks", "[]"]
    words += ["--trainer.default_root_dir", str(tmp_path / "runs"), "--trainer.limit_val_batches", "1.0"]
    words += ["--data.init_args.batch_size", "4", "--data.init_args.sub_batch_size", "2"]
    words += ["--data.init_args.val", "[{class_path: embedrl.data.world.WorldTasks, init_args: {split: val, size: 3, "
              "families: [t2i]}}]"]  # fmt: skip
    if loss == "late_interaction":
        words += ["--model.init_args.backbone", str(CONFIGS / "parts/backbone/late_interaction.yaml")]
    adapter = loss == "expert_aware"  # experts cannot be merged
    if adapter:
        words += ["--model.init_args.backbone", str(CONFIGS / "parts/backbone/experts.yaml")]
    if loss in ("cosent", "distillation"):
        words += ["--data.init_args.mix", str(graded(tmp_path)), "--data.init_args.render.on_missing_tcot", "raw"]
    assert main(["fit", *words]) == 0, capsys.readouterr().err
    (checkpoint,) = tmp_path.glob("runs/version_0/checkpoints/last.ckpt")
    arguments = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    module = load_module(checkpoint)
    assert config_form(module.loss) == arguments["loss"]
    assert matryoshka_dims(module.trained_model) == list(module.loss.dims)
    own = ["--adapter", "true"] if adapter else []
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "model"), *own]) == 0
    if adapter:
        return
    exported = json.loads((tmp_path / "model/config.json").read_text())
    assert exported.get("matryoshka_dimensions", []) == list(module.loss.dims)
    assert exported.get("is_matryoshka", False) is bool(module.loss.dims)

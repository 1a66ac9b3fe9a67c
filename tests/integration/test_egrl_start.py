"""The EG-RL quickstart, shrunk: scores, pictures and Δs from step 0 on, once, also when the run is resumed."""

import pytest
import torch
from cli_process import logged
from recipes import CONFIGS, EGRL, RETRIEVAL, SMALL, overlays
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from embedrl.cli import main

CALLBACKS = [
    {"class_path": "embedrl.training.ValidateAtStart"},
    {"class_path": "embedrl.training.ReasoningSamples", "init_args": {"num_samples": 2}},
    RETRIEVAL,
]


def entries(run, kind: str, read: str) -> dict[str, list[int]]:
    """Steps of every picture, text or histogram, over all starts of the run."""
    found: dict[str, list[int]] = {}
    for path in sorted(run.glob("events.out.tfevents.*")):
        events = EventAccumulator(str(path), size_guidance={kind: 0})
        events.Reload()
        for tag in events.Tags()[kind]:
            found.setdefault(tag, []).extend(event.step for event in getattr(events, read)(tag))
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("resumed", [False, True])
def test_curves_and_pictures_begin_at_step_0(resumed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = {"trainer": {"callbacks": CALLBACKS}, "checkpoint": {"monitor": "val/hit@1"}}
    args = ["fit", "--config", str(CONFIGS / "quickstart/egrl.yaml"), *overlays(tmp_path, SMALL, EGRL, more)]
    assert main(args) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    (run,) = tmp_path.rglob("version_0")
    assert "reasoning_samples/ (steps 0 to 2; also under IMAGES and TEXT)" in out
    assert torch.load(run / "checkpoints/best.ckpt", weights_only=True)["global_step"] == 2
    if resumed:
        assert main([*args, "--ckpt_path", "last", "--trainer.max_steps", "4"]) == 0, capsys.readouterr().err
    validated = [0, 2, 4] if resumed else [0, 2]
    for tag in ("val/hit@1", "val/vqa/hit@1", "val/delta_s", "val/vqa/delta_s", "val/evidence_image", "val/format"):
        curve = logged(run, tag)
        # Lightning logs a validation after n steps at n - 1, the step it followed.
        assert sorted(curve) == [max(n - 1, 0) for n in validated], tag
        assert all(len(values) == 1 for values in curve.values()), tag
    assert entries(run, "histograms", "Histograms") == {"val/delta_s": validated}
    pictures = entries(run, "images", "Images")
    assert len(pictures) == 2
    assert all(tag.startswith("reasoning/vqa/") and steps == validated for tag, steps in pictures.items())
    texts = {tag: steps for tag, steps in entries(run, "tensors", "Tensors").items() if tag.startswith("reasoning")}
    assert texts == {f"{tag}/text_summary": steps for tag, steps in pictures.items()}

"""What a run says first and last; the figures before and after survive a resume."""

import shlex

import lightning
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from embedrl.training.callbacks.run_summary import RunSummary
from embedrl.training.run_dir import CheckpointOptions
from embedrl.training.score_tables import WIDTH


class Module(BoringModel):
    def validation_step(self, batch, batch_idx):
        self.log("val/hit@1", self.global_step / 10)
        self.log("val/vqa/hit@1", self.global_step / 10)

    def test_step(self, batch, batch_idx):
        self.log("test/hit@1", 0.75)


def trainer(folder, steps, **options):
    return lightning.Trainer(
        accelerator="cpu", max_steps=steps, val_check_interval=2, check_val_every_n_epoch=None, limit_val_batches=1,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, limit_test_batches=1,
        callbacks=[RunSummary("embedrl fit --config next.yaml"), *CheckpointOptions(1).callbacks()], **options,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_the_first_validation_and_the_last(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun = trainer("runs", 4)
    begun.fit(Module())
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("Module on cpu (")
    assert "0.00 M of 0.00 M parameters train, run folder runs/lightning_logs/version_0" in out[0]
    assert out[2].startswith("Done: 4 steps in ")
    assert [line.split() for line in out[3:7]] == [
        ["mean", "of", "tasks", "step", "2", "step", "4", "change"],
        ["hit@1", "0.200", "0.400", "+0.200"],
        ["last", "validation", "hit@1"],
        ["vqa", "0.400"],
    ]
    begun.save_checkpoint("a.ckpt")
    trainer("runs", 8).fit(Module(), ckpt_path="a.ckpt")
    out = capsys.readouterr().out
    assert "step 2    step 8    change\n" in out
    assert "hit@1             0.200     0.800    +0.600\n" in out
    assert out.splitlines()[-1] == "  next         embedrl fit --config next.yaml"
    assert max(map(len, out.splitlines()[1:])) <= WIDTH


@pytest.mark.filterwarnings("ignore")
def test_the_commands_can_be_pasted(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer("runs", 2).fit(Module())
    out = capsys.readouterr().out
    folder = "runs/lightning_logs/version_0"
    checkpoint = next(tmp_path.rglob("*.ckpt")).relative_to(tmp_path)
    score, export = (
        shlex.split(out[out.index(begin) : out.index(end)].replace("\\\n", ""))
        for begin, end in (("embedrl validate", "  export "), ("embedrl export", "  next "))
    )
    assert score == ["embedrl", "validate", "--config", f"{folder}/config.yaml", "--ckpt_path", str(checkpoint)]
    assert export == ["embedrl", "export", "--checkpoint", str(checkpoint), "--out", f"{folder}/model"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("stage", "title", "value"), [("validate", "validation", "0.000"), ("test", "test", "0.750")])
def test_scores_alone(stage, title, value, tmp_path, capsys):
    getattr(trainer(tmp_path, 2), stage)(Module(), verbose=False)
    head, row, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["mean", "of", "tasks", title]
    assert row.split() == ["hit@1", value]

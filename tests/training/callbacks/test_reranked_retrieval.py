import pytest
import torch
import yaml
from cli_process import logged
from egrl_small import CONFIGS, FROZEN, TASKS

import embedrl
from embedrl.cli import main
from embedrl.data.world import WorldTasks
from embedrl.errors import ConfigError
from embedrl.inference import Reranker
from embedrl.metrics.retrieval import HitRate, score, training_metrics
from embedrl.training.callbacks.reranked_retrieval import RerankedRetrieval
from embedrl.training.trained_model import load_reasoner


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_recipe_logs_the_figures_before_and_after(tmp_path, capsys):
    callback = {
        "class_path": "embedrl.training.RerankedRetrieval",
        "init_args": {"tasks": TASKS, "embedder": FROZEN, "depth": 2, "style": "brief"},
    }
    small = {
        "trainer": {"max_steps": 2, "val_check_interval": 2, "callbacks": [callback], "log_every_n_steps": 1},
        "model": {"init_args": {"generator": {"init_args": {"path": "embedrl:tiny"}}, "max_new_tokens": 2}},
        "data": {"init_args": {"batch_size": 4, "micro_batch_size": 4, "val": {"init_args": {"limit": 2}}}},
    }
    overlay = tmp_path / "small.yaml"
    overlay.write_text(yaml.safe_dump(small))
    words = ["--config", str(CONFIGS / "world/reranker.yaml"), "--config", str(overlay)]
    words += ["--trainer.default_root_dir", str(tmp_path / "runs"), "--checkpoint.monitor", "val/hit@1"]
    assert main(["fit", *words]) == 0, capsys.readouterr().err

    run = tmp_path / "runs/version_0"
    task = WorldTasks("val", 2, ["vqa"]).tasks()[0]
    options = yaml.safe_load((CONFIGS / "parts/backbone/tiny.yaml").read_text())["init_args"]
    embedder = embedrl.FrozenEmbedder(embedrl.QwenVLBackbone(options["path"]))
    [before] = embedder.score([task], torch.device("cpu"))
    reranker = Reranker(load_reasoner(str(run)), style="brief")  # type: ignore[arg-type]
    after = reranker.rerank(before.task, before.ranking, 2)
    metrics = score(after, training_metrics())
    for name in ("hit@1", "ndcg@5"):
        [(_, [*_, value])] = logged(run, f"val/before/vqa/{name}").items()
        assert value == pytest.approx(before.metrics[name])
        [(_, [*_, value])] = logged(run, f"val/vqa/{name}").items()
        assert value == pytest.approx(metrics[name])
    [(_, [*_, bound])] = logged(run, "val/before/vqa/hit@2").items()  # the most that reading two can reach
    assert bound == pytest.approx(score(before.ranking, [HitRate(2)])["hit@2"])
    assert bound >= metrics["hit@1"]


@pytest.mark.parametrize("option", ["depth", "max_tokens"])
def test_wrong_options(option):
    with pytest.raises(ConfigError, match=f"{option} is 0"):
        RerankedRetrieval([], None, **{option: 0})  # type: ignore[arg-type]

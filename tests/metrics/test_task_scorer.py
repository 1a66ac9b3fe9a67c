"""Δs, evidence counts, and where they are logged."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from embedrl.data.collate import Place
from embedrl.errors import ConfigError
from embedrl.metrics.evidence import evidence_counts
from embedrl.metrics.ranking import rank
from embedrl.metrics.retrieval import score, training_metrics
from embedrl.metrics.task_scorer import TaskResult, TaskScorer
from embedrl.tcot.parser import build
from embedrl.training.retrieval_log import log_results
from embedrl.types import Modality, RetrievalTask, Side


def scored(name, queries, candidates, qrels, pools=None) -> TaskResult:
    queries, candidates = torch.tensor(queries), torch.tensor(candidates)
    sides = [[Side(text=f"{kind} {i}") for i in range(len(v))] for kind, v in (("q", queries), ("c", candidates))]
    ranking = rank(queries, candidates, qrels, pools)
    figures = score(ranking, training_metrics())
    return TaskResult(RetrievalTask(name, *sides, qrels, pools), queries, candidates, ranking, figures)


PLAIN = scored("plain", [[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.8, 0.6], [0.0, -1.0]], [{0: 1.0}, {0: 1.0}])
POOLS = scored("pools", [[1.0, 0.0]] * 2, [[0.6, 0.8], [0.9, 0.1], [0.5, 0.0]], [{0: 1.0}] * 2, [[0, 2], [0]])


def test_delta_s_is_best_minus_second_best_whichever_is_right():
    assert PLAIN.delta_s.tolist() == pytest.approx([0.2, 0.2], abs=1e-6)


def test_delta_s_looks_into_the_querys_pool_and_leaves_out_pools_of_one():
    assert POOLS.delta_s.tolist() == pytest.approx([0.1], abs=1e-6)


def test_a_tie_has_no_gap():
    tied = scored("tied", [[1.0, 0.0]], [[0.6, 0.8], [0.6, -0.8]], [{0: 1.0}])
    assert tied.delta_s.tolist() == pytest.approx([0.0], abs=1e-6)
    assert tied.delta_s.min() >= 0


class Module:
    """Takes what is logged."""

    global_step = 7

    def __init__(self, *loggers, sanity_checking=False) -> None:
        self.trainer = SimpleNamespace(loggers=loggers, sanity_checking=sanity_checking)
        self.logged: dict[str, float] = {}

    def log(self, name, value, **_) -> None:
        self.logged[name] = value

    def log_dict(self, values, **_) -> None:
        self.logged.update(values)


def histograms(folder) -> dict[str, list]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: events.Histograms(tag) for tag in events.Tags()["histograms"]}


def test_delta_s_is_logged_by_task_as_a_mean_and_as_a_histogram(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="a")
    module = Module(CSVLogger(tmp_path), logger)
    log_results(module, "val", [PLAIN, POOLS])
    logger.save()
    logger.finalize("success")
    assert module.logged["val/plain/delta_s"] == pytest.approx(0.2, abs=1e-6)
    assert module.logged["val/pools/delta_s"] == pytest.approx(0.1, abs=1e-6)
    assert module.logged["val/delta_s"] == pytest.approx(0.15, abs=1e-6), "the mean over tasks, not over queries"
    ((event,),) = histograms(tmp_path / "a").values()
    assert event.step == 7
    assert event.histogram_value.num == 3
    assert event.histogram_value.sum == pytest.approx(0.5, abs=1e-6)


def test_no_histogram_without_tensorboard_or_while_checking(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="a")
    for module in (Module(CSVLogger(tmp_path)), Module(logger, sanity_checking=True)):
        log_results(module, "val", [PLAIN])
        assert "val/delta_s" in module.logged
    assert not list(tmp_path.rglob("events*"))


class Picture:
    name = "picture"


def test_evidence_is_counted_by_modality_and_equal_sides_once():
    text = Side(text="x", tcot=build(Modality.TEXT, "a", "b", "c", keywords=["u", "v", "w"]).render())
    boxes = build(Modality.IMAGE, "a", "b", "c", boxes=[(0, 0, 10, 10)]).render()
    image = Side(images=(Picture(),), tcot=boxes)
    blank = Side(text="other", images=(Picture(),), tcot="nothing that parses")
    tasks = [RetrievalTask("a", [text], [image, blank], [{0: 1}]), RetrievalTask("b", [text], [image], [{0: 1}])]
    assert evidence_counts(tasks) == {Modality.IMAGE: 0.5, Modality.TEXT: 3.0}


def test_shorter_vectors_are_scored_as_vectors_of_their_own():
    task = RetrievalTask("t", [Side("q0"), Side("q1")], [Side("c0"), Side("c1"), Side("c2")], [{0: 1.0}, {1: 1.0}])
    vectors = torch.nn.functional.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    scorer = TaskScorer([task], dims=[2, 3])
    places = [Place(0, "query", 0), Place(0, "query", 1), *(Place(0, "candidate", i) for i in range(3))]
    scorer.add([[place] for place in places], vectors)
    (result,) = scorer.results()
    names = list(score(result.ranking, training_metrics()))
    assert list(result.metrics) == [*names, *(f"{name}_dim{dim}" for dim in (2, 3) for name in names)]
    for dim in (2, 3):
        short = vectors[:, :dim] / vectors[:, :dim].norm(dim=1, keepdim=True)
        best = (short[:2] @ short[2:].T).argmax(1)
        assert result.metrics[f"hit@1_dim{dim}"] == (best == torch.tensor([0, 1])).float().mean()


def test_refuses_a_length_above_the_models():
    task = RetrievalTask("t", [Side("q")], [Side("c")], [{0: 1.0}])
    scorer = TaskScorer([task], dims=[4096])
    scorer.add([[Place(0, "query", 0)], [Place(0, "candidate", 0)]], torch.eye(2))
    with pytest.raises(ConfigError, match=r"loss\.dims has 4096, but the model's vectors have 2 numbers"):
        scorer.results()

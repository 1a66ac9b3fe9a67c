"""The cards of held-out samples, and what of them reaches TensorBoard."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import Plain, count, result

from embedrl.errors import ConfigError
from embedrl.inference.frozen_embedder import LENIENT
from embedrl.tcot.parser import build
from embedrl.training.callbacks.reasoned_retrieval import ReasonedRetrieval
from embedrl.training.callbacks.reasoning_samples import ReasoningSamples, choose_queries, sample_markdown
from embedrl.types import Modality, RetrievalTask, Side
from embedrl.visualization.drawing import GREEN, ORANGE, RED
from embedrl.visualization.evidence import draw_evidence, draw_panel, evidence_of
from embedrl.visualization.sample_card import draw_sample, standing


class Halves:
    """Left half blue, right half yellow."""

    name = "halves"

    def load(self) -> Image.Image:
        image = Image.new("RGB", (100, 100), (0, 0, 255))
        image.paste((255, 255, 0), (50, 0, 100, 100))
        return image


RIGHT_HALF = Side(
    "what is here?",
    (Halves(),),
    tcot=build(Modality.IMAGE, "look", "so", "yellow", boxes=[(600, 0, 900, 1000)]).render(),
)
FRAMES = tuple(Plain((0, 0, 40 * i), (32, 32)) for i in range(1, 5))


@pytest.mark.parametrize(("right", "pool", "rank", "wrong"), [(0, None, 1, 1), (2, None, 3, 0), (2, [5, 2, 7], 1, 5)])
def test_standing(right, pool, rank, wrong):
    stand = standing(result(right, pool=pool), 0)
    assert (stand.right, stand.rank, stand.wrong, stand.pool) == (right, rank, wrong, 8 if pool is None else len(pool))
    assert stand.similarity == pytest.approx(float(result(right).queries[0, right]))
    assert (stand.similarity > stand.wrong_similarity) == (rank == 1)


def test_ties_count_against_the_right_one_and_it_may_be_alone():
    scored = result(0)
    tied = replace(scored, candidates=torch.ones_like(scored.candidates))
    assert standing(tied, 0).rank == 8
    alone = standing(result(3, pool=[3]), 0)
    assert (alone.wrong, alone.rank, alone.pool) == (None, 1, 1)
    assert draw_sample(result(3, pool=[3]), 0).size == draw_sample(scored, 0).size


def test_a_panel_shows_the_box_and_beside_it_the_crop():
    (crop,) = evidence_of(RIGHT_HALF)
    assert crop.size[1] == 100
    assert count(crop, (0, 0, 255)) == 0
    panel = draw_panel(RIGHT_HALF, 300, 200)
    shown, beside = panel.crop((0, 0, 200, 200)), panel.crop((205, 0, 300, 200))
    assert count(shown, ORANGE) > 200
    assert count(shown, (0, 0, 255)) > 5000
    assert count(beside, (255, 255, 0)) > 500
    assert count(beside, (0, 0, 255)) == 0


def test_a_panel_of_a_video_shows_the_key_frames_again():
    tcot = build(Modality.VIDEO, "look", "so", "blue", frames=[3]).render()
    beside = draw_panel(Side(frames=FRAMES, tcot=tcot), 300, 200).crop((210, 0, 300, 200))
    assert count(beside, (0, 0, 120)) > 500
    assert count(beside, (0, 0, 40)) == count(beside, (0, 0, 80)) == 0


@pytest.mark.parametrize(
    "tcot", ["", "<think>nonsense", '<thinking>{"bbox_2d": [[0, 0, 9, 9]]}</thinking>' * 40, "\x00 " * 3000]
)
@pytest.mark.parametrize("side", [Side("words " * 400), RIGHT_HALF, Side("x", frames=FRAMES)])
def test_whatever_was_written_can_be_drawn(side, tcot):
    side = side.with_tcot(tcot)
    assert draw_evidence(side, ["a note"]).width == 980
    scored = result(1, query=side)
    assert draw_sample(scored, 0).size == draw_sample(result(1), 0).size
    assert sample_markdown(scored, 0)


def test_a_card_is_green_if_the_right_one_is_first():
    first, third = (draw_sample(result(right), 0).crop((0, 0, 900, 70)) for right in (0, 2))
    assert count(first, GREEN) > 50
    assert count(first, RED) == 0
    assert count(third, RED) > 50
    assert count(third, GREEN) == 0


def test_the_text_names_rank_similarities_tcot_and_problems():
    scored = result(2, query=RIGHT_HALF)
    text = sample_markdown(scored, 0)
    assert "**rank 3 of 8, similarity" in text
    assert "    <thinking>look" in text, "indented: HTML to TensorBoard otherwise"
    assert "    <answer>yellow</answer>" in text
    assert "problems: none" in text
    assert "word 2" in text
    assert "word 0" in text
    assert "missing_tag" not in text
    assert "problems: <thinking> is missing" in sample_markdown(result(2, query=RIGHT_HALF.with_tcot("nothing")), 0)


def task(queries: int) -> RetrievalTask:
    return RetrievalTask("t", [Side(f"q{i}") for i in range(queries)], [Side("c")], [{0: 1.0}] * queries)


def test_samples_are_spread_over_tasks_and_always_the_same():
    tasks = [task(9), task(1), task(9), task(9)]
    chosen = choose_queries(tasks, 6, seed=3)
    assert chosen == choose_queries(tasks, 6, seed=3)
    assert chosen != choose_queries(tasks, 6, seed=4)
    assert len(set(chosen)) == 6
    assert {index for index, _ in chosen} == {0, 1, 2, 3}
    assert [sum(index == i for index, _ in chosen) for i in (0, 2, 3)].count(2) == 2
    assert len(choose_queries(tasks, 100, seed=0)) == 28
    assert len(choose_queries(tasks, 2, seed=0)) == 2
    assert choose_queries([], 2, seed=0) == []


def run(callback, folder, step, *loggers, sanity_checking=False, **options):
    trainer = SimpleNamespace(
        callbacks=[callback, SCORED], loggers=loggers, sanity_checking=sanity_checking, is_global_zero=True,
        global_step=step, log_dir=str(folder) if folder else None, **options,
    )  # fmt: skip
    callback.setup(trainer, None, "fit")
    callback.on_validation_end(trainer, SimpleNamespace(embedder=SimpleNamespace(render=LENIENT)))


SCORED = ReasonedRetrieval([])


def test_each_validation_adds_one_entry_under_the_same_tags(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="a")
    callback = ReasoningSamples(3)
    for step, tcot in ((0, "nothing"), (50, RIGHT_HALF.tcot)):
        SCORED.results = [result(2, query=RIGHT_HALF.with_tcot(tcot))]
        run(callback, tmp_path / "a", step, CSVLogger(tmp_path), logger)
    run(callback, tmp_path / "a", 60, logger, sanity_checking=True)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "a"))
    events.Reload()
    assert events.Tags()["images"] == ["reasoning/toy/0"]
    assert events.Tags()["tensors"] == ["reasoning/toy/0/text_summary"]
    before, after = events.Images("reasoning/toy/0")
    assert (before.step, after.step) == (0, 50)
    assert before.encoded_image_string != after.encoded_image_string
    texts = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("reasoning/toy/0/text_summary")]
    assert "<thinking> is missing" in texts[0]
    assert "<answer>yellow</answer>" in texts[1]
    saved = Image.open(tmp_path / "a" / "reasoning_samples" / "step_000050" / "toy_0.png")
    assert np.array_equal(np.asarray(saved), np.asarray(draw_sample(SCORED.results[0], 0)))


def test_without_tensorboard_pictures_go_to_the_folder_alone(tmp_path):
    SCORED.results = [result(2)]
    run(ReasoningSamples(), tmp_path, 5, CSVLogger(tmp_path / "csv"))
    assert [path.name for path in tmp_path.rglob("*.png")] == ["toy_0.png"]
    run(ReasoningSamples(), None, 5)


def test_it_needs_the_scores_of_reasoned_retrieval():
    with pytest.raises(ConfigError, match="add that, too"):
        ReasoningSamples().setup(SimpleNamespace(callbacks=[]), None, "fit")
    with pytest.raises(ConfigError, match="num_samples is 0"):
        ReasoningSamples(0)

"""UVRB: global sets, and the two that rank ten candidates a query."""

import pytest
import torch
from local_copies import judged, pool_of, set_row, write_frames, write_lines, write_picture

from embedrl.errors import DataError
from embedrl.evaluation.readers.read_task import read_task
from embedrl.evaluation.table import load_table
from embedrl.metrics.ranking import rank
from embedrl.metrics.retrieval import mean_metrics


def write_set(root, name, queries, instances, videos):
    folder = root / name
    write_lines(folder / "jsonl/queries.jsonl", queries)
    write_lines(folder / "jsonl/instances.jsonl", instances)
    write_lines(folder / "jsonl/corpus.jsonl", [{"id": f"d{video}", "video": f"{video}.mp4"} for video in videos])
    for video in videos:
        write_frames(folder / "videos_frames" / str(video), 10)


def test_global(tmp_path):
    queries = [{"id": "q1", "text": "a cat"}, {"id": "q2", "text": "a dog", "image": "", "video": None}]
    write_set(tmp_path, "MSRVTT", queries, [{"qid": "q1", "pos": ["d0", "d2"]}, {"qid": "q2", "pos": ["d1"]}], range(3))
    task, _ = read_task(set_row("uvrb", "MSRVTT"), tmp_path)
    assert task.pools is None
    assert [judged(task, 0), judged(task, 1)] == [{"d0": 1, "d2": 1}, {"d1": 1}]
    assert task.queries[0].text == "Find the clip that corresponds to the described scene in the given video. a cat"
    assert [len(side.frames) for side in task.candidates] == [8, 8, 8]
    assert task.candidates[0].frames[0].name == "MSRVTT/videos_frames/0/frame_1.jpg"
    assert task.main_metric == "recall@1"


def test_pictures_and_videos_ask_too(tmp_path):
    write_set(tmp_path, "MSRVTT-I2V", [{"id": "q", "image": "sub/a.jpg"}], [{"qid": "q", "pos": ["d0"]}], [0])
    write_picture(tmp_path / "MSRVTT-I2V/images/sub/a.jpg")
    query = read_task(set_row("uvrb", "MSRVTT-I2V"), tmp_path)[0].queries[0]
    assert (query.text, len(query.images)) == ("Find the video according to the image.", 1)
    write_set(tmp_path, "LoVR-C2V", [{"id": "q", "video": "clips/7.mp4"}], [{"qid": "q", "pos": ["d0"]}], [0])
    write_frames(tmp_path / "LoVR-C2V/videos_frames/clips/7", 4)
    query = read_task(set_row("uvrb", "LoVR-C2V"), tmp_path)[0].queries[0]
    assert (query.text.split()[0], len(query.frames)) == ("Find", 4)


def test_texts_are_cut_as_the_released_configurations_say(tmp_path):
    """8,192 characters with the prompt; the 512 in the released code is a default that every configuration replaces."""
    row = set_row("uvrb", "LoVR-V")
    texts = ["x" * 600, "y" * 9000]
    instances = [{"qid": f"q{i}", "pos": ["d0"]} for i in range(2)]
    write_set(tmp_path, "LoVR-V", [{"id": f"q{i}", "text": text} for i, text in enumerate(texts)], instances, [0])
    asked = [side.text for side in read_task(row, tmp_path)[0].queries]
    prompt = "Find the long video according to the long text description."
    assert asked == [f"{prompt} {'x' * 600}", f"{prompt} {'y' * (8192 - len(prompt) - 1)}"]
    assert {row.options["max_characters"] for row in load_table("uvrb")} == {"8192"}


def ten(start):
    return [f"d{number}" for number in range(start, start + 10)]


@pytest.mark.parametrize("key", ["neg", "candidates"])
def test_ten_candidates_a_query(tmp_path, key):
    """Ranking these sets against the whole corpus is a known mistake."""
    queries = [{"id": f"q{i}", "text": "then", "image": "a.jpg"} for i in range(3)]
    others = {i: ten(10 * i)[1:] if key == "neg" else ten(10 * i) for i in range(3)}
    instances = [{"qid": f"q{i}", "pos": [f"d{10 * i}"], key: others[i]} for i in range(3)]
    write_set(tmp_path, "MS-TI", queries, instances, range(30))
    write_picture(tmp_path / "MS-TI/images/a.jpg")
    task, _ = read_task(set_row("uvrb", "MS-TI"), tmp_path)
    assert [pool_of(task, i) for i in range(3)] == [ten(0), ten(10), ten(20)]
    assert [judged(task, i) for i in range(3)] == [{"d0": 1}, {"d10": 1}, {"d20": 1}]
    # All three ask for about the same thing, and the first video of each ten is the best of its ten.
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1 * (i % 10) + 0.01 * (i // 10)] for i in range(30)]))
    query = torch.tensor([[1.0, 0.0]]).repeat(3, 1)
    own = mean_metrics(rank(query, vectors, task.qrels, task.pools))[task.main_metric]
    whole = mean_metrics(rank(query, vectors, task.qrels))[task.main_metric]
    assert (task.main_metric, own) == ("precision@1", 1.0)
    assert whole == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("more", "cause", "message"),
    [
        ({}, "query without its own candidates", "it holds 'qid', 'pos', but neither 'neg' nor 'candidates': .* 10 "),
        ({"neg": ten(1)}, "query without its own candidates", "11 candidates, not 10"),
        ({"candidates": ten(5)}, "query without its own candidates", "10 candidates, not 10 with the right ones"),
        ({"neg": [*ten(1)[:8], "d99"]}, "pool with an unknown candidate", "'d99' is unknown"),
    ],
)
def test_a_query_without_its_ten_candidates(tmp_path, more, cause, message):
    queries = [{"id": "q0", "text": "then"}, {"id": "q1", "text": "then"}]
    instances = [{"qid": "q0", "pos": ["d0"], **more}, {"qid": "q1", "pos": ["d0"], "candidates": ten(0)}]
    write_set(tmp_path, "MS-TV", queries, instances, range(20))
    with pytest.raises(DataError, match=f"^MS-TV: .*{message}"):
        read_task(set_row("uvrb", "MS-TV"), tmp_path)
    task, skipped = read_task(set_row("uvrb", "MS-TV"), tmp_path, on_bad="skip")
    assert skipped[cause] == 1
    assert all(0 < len(pool) <= 10 for pool in task.pools)  # never the whole corpus


def test_an_unknown_video_a_missing_folder_and_a_broken_line(tmp_path):
    queries = [{"id": "q0", "text": "a"}, "{broken", {"id": "q2", "text": "c"}]
    instances = [{"qid": "q0", "pos": ["d0", "gone"]}, {"qid": "q2", "pos": ["d1"]}]
    write_set(tmp_path, "CRB-S", queries, instances, range(2))
    (tmp_path / "CRB-S/videos_frames/1").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"CRB-S: candidate d1: frame folder .* does not exist"):
        read_task(set_row("uvrb", "CRB-S"), tmp_path)
    task, skipped = read_task(set_row("uvrb", "CRB-S"), tmp_path, on_bad="skip")
    assert task.query_ids == ["q0"]
    assert skipped == {
        "missing frame folder": 1,
        "qrel to an unknown candidate": 1,
        "unreadable row": 1,
        "query without a relevant candidate": 1,
    }

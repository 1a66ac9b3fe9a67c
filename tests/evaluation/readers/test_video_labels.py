"""The video sets of MMEB: labels, options, pools, and clips of which several are right."""

import json

import pytest
from local_copies import frame_numbers, judged, pool_of, set_row, write_frames, write_lines, write_picture

from embedrl.errors import DataError
from embedrl.evaluation.readers.read_task import read_task
from embedrl.tcot.store import content_hash

CLS, QA = "video-tasks/frames/video_cls", "video-tasks/frames/video_qa"
RET, MRET = "video-tasks/frames/video_ret", "video-tasks/frames/video_mret"


def test_labels_are_ranked_globally_against_the_full_list(tmp_path):
    write_frames(tmp_path / CLS / "HMDB51/v1", 20)
    write_frames(tmp_path / CLS / "HMDB51/v2", 3)
    rows = [{"video_id": "v1", "pos_text": "wave"}, {"video_id": "v2", "pos_text": "sit"}]
    write_lines(tmp_path / "video-tasks/data/hmdb51.jsonl", rows)
    task, _ = read_task(set_row("mmeb_v2", "HMDB51"), tmp_path)
    assert task.pools is None
    assert len(task.candidates) == len(set(task.candidate_ids)) == 51  # not the two that the rows hold
    assert [judged(task, 0), judged(task, 1)] == [{"wave": 1}, {"sit": 1}]
    assert task.queries[0].text == "What actions or objects interactions are the person in the video doing?"
    # linspace(0, 19, 8) cut to whole numbers, in natural order; a short video keeps what it has
    assert frame_numbers(task.queries[0]) == [1, 3, 6, 9, 11, 14, 17, 20]
    assert frame_numbers(task.queries[1]) == [1, 2, 3]


@pytest.mark.parametrize("label", ["Bowlin", "bowling", "Bowling ", "", "NotASport", "Rock Climbing"])
def test_a_label_outside_the_list_never_widens_the_pool(tmp_path, label):
    write_frames(tmp_path / CLS / "UCF101/v1", 2)
    rows = [{"video_id": "v1", "pos_text": text} for text in (label, "Bowling", "Swing", label)]
    write_lines(tmp_path / "video-tasks/data/ucf101.jsonl", rows)
    with pytest.raises(DataError, match=r"UCF101: ucf101\.jsonl, row 0: 'pos_text' is .*none of UCF101's 101 labels"):
        read_task(set_row("mmeb_v2", "UCF101"), tmp_path)
    task, skipped = read_task(set_row("mmeb_v2", "UCF101"), tmp_path, "skip")
    assert len(task.candidates) == len(set(task.candidate_ids)) == 101
    assert [judged(task, 0), judged(task, 1)] == [{"Bowling": 1}, {"Swing": 1}]
    assert skipped == {"unknown label": 2}


@pytest.mark.parametrize(("name", "labels"), [("K700", 700), ("UCF101", 101), ("HMDB51", 51), ("Breakfast", 10)])
def test_number_of_labels(name, labels):
    from embedrl.evaluation.readers.video_labels import labels_of

    assert len(set(labels_of(name))) == labels


def test_smthsmthv2_ranks_the_rows_own_labels(tmp_path):
    write_frames(tmp_path / CLS / "SSv2/7", 2)
    write_frames(tmp_path / CLS / "SSv2/8", 2)
    rows = [
        {"video_id": 7, "pos_text": "Opening something", "neg_text": ["Closing something", "Opening something"]},
        {"video_id": 8, "pos_text": "Folding something", "neg_text": ["Closing something"]},
    ]
    write_lines(tmp_path / "video-tasks/data/ssv2.jsonl", rows)
    task, _ = read_task(set_row("mmeb_v2", "SmthSmthV2"), tmp_path)
    assert pool_of(task, 0) == ["Closing something", "Opening something"]
    assert sorted(pool_of(task, 1)) == ["Closing something", "Folding something"]
    assert judged(task, 0) == {"Opening something": 1}


PROMPT = (
    "Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer. Question: "
)
OPTIONS = [
    # set, file, row, frame folder, question as shown, names, encoded texts, right one
    (
        "MVBench",
        "mvbench/action_count.json",
        {"question": "How many?", "video": "x.mp4", "candidates": ["3", "4"], "answer": "4"},
        "action_count/x.mp4",
        "How many?\nOptions:\n(A) 3\n(B) 4",
        ["(A) 3", "(B) 4"],
        ["(A) 3", "(B) 4"],
        1,
    ),
    (
        "Video-MME",
        "video-mme.jsonl",
        {"question": "Who?", "videoID": "x", "options": ["A. A man.", "B. Mr. Po."], "answer": "B"},
        "x",
        "Who?\nA. A man.\nB. Mr. Po.",
        ["A. A man.", "B. Mr. Po."],
        ["A man", "Mr. Po"],
        1,
    ),
    (
        "NExTQA",
        "nextqa.jsonl",
        {"question": "why", "video": 42, "answer": 2, **{f"a{i}": f"o{i}" for i in range(5)}},
        "42",
        "why\nOptions:\n(A) o0\n(B) o1\n(C) o2\n(D) o3\n(E) o4",
        ["o0", "o1", "o2", "o3", "o4"],
        ["o0", "o1", "o2", "o3", "o4"],
        2,
    ),
    (
        "EgoSchema",
        "egoschema.jsonl",
        {"question": "What?", "video_idx": "x", "answer": "1", "option": ["A. this", "B. that"]},
        "x",
        "What?A. this B. that",
        ["A. this", "B. that"],
        ["this", "that"],
        1,
    ),
    (
        "ActivityNetQA",
        "activitynetqa.jsonl",
        {"question": "is he old", "video_name": "x", "answer": "no"},
        "v_x",
        "is he old? (A) yes; (B) no.",
        ["yes", "no"],
        ["yes", "no"],
        1,
    ),
]


@pytest.mark.parametrize(("name", "file", "row", "folder", "shown", "names", "texts", "right"), OPTIONS)
def test_options_of_a_question(tmp_path, name, file, row, folder, shown, names, texts, right):
    write_frames(tmp_path / QA / name / folder, 9)
    path = tmp_path / "video-tasks/data" / file
    if path.suffix == ".json":
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps([row]))
    else:
        write_lines(path, [row])
    task, _ = read_task(set_row("mmeb_v2", name), tmp_path)
    assert pool_of(task, 0) == names
    assert [side.text for side in task.candidates] == texts
    assert judged(task, 0) == {names[right]: 1}
    assert task.queries[0].text == (PROMPT + shown)
    assert len(task.queries[0].frames) == 8


@pytest.mark.parametrize("answer", ["E", "", 1, None])
def test_an_answer_that_is_no_option_is_unreadable(tmp_path, answer):
    write_frames(tmp_path / QA / "Video-MME/x", 2)
    row = {"question": "Who?", "videoID": "x", "options": ["A. a", "B. b"]}
    write_lines(tmp_path / "video-tasks/data/video-mme.jsonl", [{**row, "answer": answer}, {**row, "answer": "A"}])
    with pytest.raises(DataError, match=r"Video-MME: video-mme\.jsonl, row 0: .*answer"):
        read_task(set_row("mmeb_v2", "Video-MME"), tmp_path)
    assert read_task(set_row("mmeb_v2", "Video-MME"), tmp_path, "skip")[1] == {"unreadable row": 1}


POOLS = [
    ("MSR-VTT", "msr-vtt.jsonl", {"video_id": "v1", "video": "v1.mp4", "caption": "a cat"}, "v1"),
    ("MSVD", "msvd.jsonl", {"video_id": "v1", "video": "v1.avi", "caption": ["a cat", "a pet"]}, "v1"),
    ("DiDeMo", "didemo.jsonl", {"video": "test/v1.mp4", "caption": "a cat"}, "v1"),
    ("VATEX", "vatex.jsonl", {"videoID": "v1", "enCap": ["a cat", "a pet"]}, "v1"),
    ("YouCook2", "youcook2-val.jsonl", {"id": "v1", "video_path": "val/v1.mp4", "sentence": "a cat"}, "v1"),
]


@pytest.mark.parametrize(("name", "file", "row", "video"), POOLS)
def test_captions_against_all_videos(tmp_path, name, file, row, video):
    second = json.loads(json.dumps(row).replace("v1", "v2"))
    for folder in ("v1", "v2"):
        write_frames(tmp_path / RET / name / folder, 3)
    write_lines(tmp_path / "video-tasks/data" / file, [row, second, row])
    task, _ = read_task(set_row("mmeb_v2", name), tmp_path)
    assert task.pools is None
    assert task.candidate_ids == ["v1", "v2"]
    assert judged(task, 2) == {video: 1}
    assert task.queries[0].text.endswith(": a cat")
    assert task.candidates[0].text == "Understand the content of the provided video."


def test_clips_of_which_several_are_right(tmp_path):
    folder = tmp_path / MRET / "QVHighlight/abc"
    for clip in ("query", "positive_2", "positive_10", "negative_1"):
        write_frames(folder / clip, 10)
    (folder / "notes.txt").write_text("no clip")
    rows = [{"query": "a dog runs", "video_path": "videos/abc.mp4"}]
    write_lines(tmp_path / "video-tasks/data/qvhighlight.jsonl", rows)
    task, _ = read_task(set_row("mmeb_v2", "QVHighlight"), tmp_path)
    start = "abc"
    assert pool_of(task, 0) == [f"{start}/{clip}" for clip in ("negative_1", "positive_2", "positive_10")]
    assert judged(task, 0) == {f"{start}/positive_2": 1, f"{start}/positive_10": 1}
    assert all("/abc/query/" in frame.name for frame in task.queries[0].frames)
    assert len(task.queries[0].frames) == 8


def test_momentseeker_reads_texts_pictures_and_videos(tmp_path):
    root = tmp_path / MRET / "MomentSeeker"
    for clip in ("m_1_pos", "m_1_pos2", "m_1_neg", "q_7"):
        write_frames(root / "video_frames" / clip, 11)
    write_picture(root / "query_sub.jpg")
    clips = {
        "positive_frames": [{"output_path": "m/1/pos.mp4"}, {"output_path": "m/1/pos2.mp4"}],
        "negative_frames": [{"output_path": "m/1/neg.mp4"}],
    }
    rows = [{"query": "jump", "input_frames": shown, **clips} for shown in ("", "sub.jpg", "q/7.mp4")]
    write_lines(tmp_path / "video-tasks/data/momentseeker_1k6.jsonl", rows)
    task, _ = read_task(set_row("mmeb_v2", "MomentSeeker"), tmp_path)
    assert [query.text for query in task.queries] == [
        "Find the clip that corresponds to the given text: jump",
        "Select the video clip that aligns with the given text and image: jump",
        "Find the clip that corresponds to the given sentence and video segment: jump",
    ]
    assert [str(query.modality) for query in task.queries] == ["text", "image", "video"]
    assert len(task.queries[2].frames) == len(task.candidates[0].frames) == 11  # all that are saved
    assert sorted(judged(task, 0).values()) == [1, 1]
    assert len(pool_of(task, 0)) == 3
    write_lines(tmp_path / "video-tasks/data/momentseeker_1k6.jsonl", [{**rows[0], "positive_frames": "m"}, rows[1]])
    assert read_task(set_row("mmeb_v2", "MomentSeeker"), tmp_path, "skip")[1] == {"unreadable row": 1}


def test_a_video_without_frames(tmp_path):
    write_frames(tmp_path / RET / "MSR-VTT/v1", 3)
    (tmp_path / RET / "MSR-VTT/v2").mkdir()
    (tmp_path / RET / "MSR-VTT/v2/readme.txt").write_text("no frames")
    rows = [{"video_id": f"v{i}", "video": "", "caption": "a"} for i in (1, 2, 3)]
    write_lines(tmp_path / "video-tasks/data/msr-vtt.jsonl", rows)
    row = set_row("mmeb_v2", "MSR-VTT")
    with pytest.raises(DataError, match=r"MSR-VTT: candidate v2: frame folder .*v2 holds no pictures"):
        read_task(row, tmp_path)
    task, skipped = read_task(row, tmp_path, on_bad="skip")
    assert task.candidate_ids == ["v1"]
    assert skipped == {
        "frame folder without frames": 1,
        "missing frame folder": 1,
        "query without a relevant candidate": 2,
    }


def test_clips_without_a_right_one(tmp_path):
    for clip in ("query", "negative_1"):
        write_frames(tmp_path / MRET / "Charades_STA/abc" / clip, 2)
    write_lines(tmp_path / "video-tasks/data/charades_sta.jsonl", [{"query": "sit", "video_path": "abc.mp4"}])
    with pytest.raises(DataError, match=r"Charades-STA: .*holds no folder positive\*"):
        read_task(set_row("mmeb_v2", "Charades-STA"), tmp_path)


def test_archives_as_they_unpack(tmp_path):
    """The folders of the public archives, where nobody moved them; names and contents are those of the moved ones."""
    rows = [{"video_id": "v1", "video": "v1.mp4", "caption": "a cat"}]
    write_lines(tmp_path / "video-tasks/data/msr-vtt.jsonl", rows)
    write_frames(tmp_path / RET / "data/ziyan/video_retrieval/MSR-VTT/frames/v1", 2)
    unpacked = read_task(set_row("mmeb_v2", "MSR-VTT"), tmp_path)[0].candidates[0]
    write_frames(tmp_path / RET / "MSR-VTT/v1", 2)
    moved = read_task(set_row("mmeb_v2", "MSR-VTT"), tmp_path)[0].candidates[0]
    assert content_hash(unpacked) == content_hash(moved)
    assert unpacked.frames[0].path != moved.frames[0].path
    assert moved.frames[0].name == f"{RET}/MSR-VTT/v1/frame_1.jpg"

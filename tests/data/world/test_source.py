import pickle
import time

import pytest
from PIL import Image

from embedrl.data.sources import PairSource, TaskSource
from embedrl.data.world import FAMILIES, WorldSource, WorldTasks, needs
from embedrl.data.world.sheet import TEACHER_COLORS, contact_sheet
from embedrl.errors import ConfigError, DataError
from embedrl.tcot.parser import parse


def test_rows_are_pure_functions_of_their_index():
    for family in FAMILIES:
        source: PairSource = WorldSource(family, size=50, teacher="annotator", negatives=1)
        copy = pickle.loads(pickle.dumps(source))
        order = [7, 3, 49, 0]
        assert [source[i] for i in order] == [copy[i] for i in reversed(order)][::-1]
        assert len({source[i].id for i in range(50)}) == len(source) == 50


def test_teachers_write_about_the_same_sides():
    for family in FAMILIES:
        by_teacher = [WorldSource(family, teacher=teacher)[5] for teacher in ("perfect", "annotator", "none")]
        assert len({(p.id, p.query.key, p.target.key) for p in by_teacher}) == 1
        assert not by_teacher[2].query.tcot
        assert not by_teacher[2].target.tcot


def test_equal_sides_are_written_up_alike():
    """A target is written up without sight of its query: the same label always reads the same."""
    texts = {}
    for pair in WorldSource("vqa", size=300, teacher="annotator"):
        assert texts.setdefault(pair.target.key, pair.target.tcot) == pair.target.tcot
    assert len(texts) < 60


def test_stable_ids_and_keys():
    pair = WorldSource("grounding")[3]
    assert (pair.dataset, pair.id) == ("world/grounding", "grounding-train-0-3")
    assert (pair.query.key[:8], pair.target.key[:8]) == PINNED


PINNED = ("f9765f01", "4a39e413")


@pytest.mark.parametrize("family", FAMILIES)
def test_needs_are_found_by_the_pair_s_id(family):
    pair = WorldSource(family, "val", seed=4)[11]
    for side, needed in zip((pair.query, pair.target), needs(pair.id), strict=True):
        cues = parse(side.tcot, side.modality).tcot.cues
        assert len(cues.boxes) == len(needed.boxes)
        assert cues.key_frames == needed.frames
        assert cues.text_keywords == needed.keywords


@pytest.mark.parametrize("pair_id", ["", "grounding", "grounding-train-0", "what-train-0-1", "grounding-dev-0-1"])
def test_unknown_ids_are_data_errors(pair_id):
    with pytest.raises(DataError, match="grounding-train-0-123"):
        needs(pair_id)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("teacher", ["perfect", "annotator"])
def test_tasks_are_written_up_and_keep_their_needs(split, teacher):
    source: TaskSource = WorldTasks(split, 16, ["doc", "moment"], teacher)
    assert [task.name for task in source.tasks()] == ["doc", "moment"]
    for family in ("doc", "moment"):
        known = WorldTasks(split, 16, teacher=teacher).task(family)
        assert len(known.query_needs) == len(known.ids) == len(known.task.queries) == 16
        assert len(known.candidate_needs) == len(known.task.candidates)
        for query, pair_id, needed in zip(known.task.queries, known.ids, known.query_needs, strict=True):
            seed, index = map(int, pair_id.split("-")[2:])
            assert WorldSource(family, split, seed=seed, teacher=teacher)[index].query == query
            assert needs(pair_id)[0] == needed
        if teacher == "perfect":
            for side, needed in zip(known.task.candidates, known.candidate_needs, strict=True):
                assert parse(side.tcot, side.modality).tcot.answer == needed.answer


def test_pool_sizes_are_configurable():
    sizes = [len(WorldTasks("val", 20, ["grounding"], decoys=d).tasks()[0].candidates) for d in (0, 1, 3)]
    assert sizes[0] == 20
    assert sizes[1] == 40
    assert 70 < sizes[2] <= 80


def test_a_task_that_does_not_fit_its_split_says_so():
    with pytest.raises(DataError, match=r"doc.*lower"):
        WorldTasks("val", 400, ["doc"], teacher="none", decoys=0).tasks()


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (lambda: WorldSource("vqaa"), "family"),
        (lambda: WorldSource("vqa", "dev"), "split"),
        (lambda: WorldSource("vqa", teacher="best"), "teacher"),
        (lambda: WorldSource("vqa", size=0), "size"),
        (lambda: WorldSource("vqa", negatives=-1), "negatives"),
        (lambda: WorldTasks("val", families=["vqa", "x"]), "families"),
        (lambda: WorldTasks("val", size=0), "size"),
        (lambda: WorldTasks("dev"), "split"),
        (lambda: contact_sheet(show=0), "show"),
        (lambda: contact_sheet(teacher="best"), "teacher"),
        (lambda: contact_sheet(family="x"), "family"),
    ],
)
def test_bad_values_are_config_errors(make, flag):
    with pytest.raises(ConfigError, match=flag):
        make()


def test_rows_outside_are_index_errors():
    for index in (-1, 5):
        with pytest.raises(IndexError, match="5 pairs"):
            WorldSource("vqa", size=5)[index]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("teacher", ["perfect", "annotator"])
def test_pairs_are_made_fast(family, teacher):
    source = WorldSource(family, teacher=teacher)
    best = float("inf")
    for batch in range(5):
        start = time.process_time()
        for index in range(batch * 10, batch * 10 + 10):
            source[index]
        best = min(best, (time.process_time() - start) / 10)
    assert best < 2e-3


def test_contact_sheet_has_twelve_pairs_a_page(tmp_path, capsys):
    paths = contact_sheet(13, tmp_path / "new", split="val", seed=2)
    told = f"Wrote 13 pairs of the built-in world: {tmp_path}/new/world_val_1.png to world_val_2.png\n"
    assert capsys.readouterr().out == told
    assert [path.name for path in paths] == ["world_val_1.png", "world_val_2.png"]
    first, second = (Image.open(path).convert("RGB") for path in paths)
    assert first.height > 3 * second.height
    for color in TEACHER_COLORS.values():
        assert sum(count for count, c in first.getcolors(1 << 22) if c == color) > 1000


def test_contact_sheet_of_one_family_and_teacher(tmp_path):
    (path,) = contact_sheet(1, tmp_path, family="doc", teacher="perfect")
    assert contact_sheet(1, tmp_path / "again", family="doc", teacher="perfect")[0].read_bytes() == path.read_bytes()
    colors = {c for _, c in Image.open(path).getcolors(1 << 22)}
    assert TEACHER_COLORS["perfect"] in colors
    assert TEACHER_COLORS["annotator"] not in colors


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_are_alike_stand_side_by_side(family):
    """Words of the answers overlap in a block more than between blocks, and no target answers another's query."""
    source = WorldSource(family, size=32, alike=4)
    rows = list(source)
    answers = [set(parse(pair.target.tcot, pair.target.modality).tcot.answer.split()) for pair in rows]

    def overlap(distance):
        return sum(len(answers[i] & answers[(i + distance) % 32]) for i in range(0, 32, 4))

    assert overlap(1) > overlap(5)
    for block in range(0, 32, 4):
        assert len({pair.target.key for pair in rows[block : block + 4]}) == 4
    # Another order of reading, another process: the same rows; and what retrieval needs is found by id.
    assert pickle.loads(pickle.dumps(source))[9] == rows[9]
    assert all(needs(pair.id) for pair in rows)
    assert len({pair.id for pair in rows}) == 32


@pytest.mark.parametrize("alike", [0, -1, 9])
def test_blocks_too_small_or_too_large_are_refused(alike):
    with pytest.raises(ConfigError, match="alike"):
        WorldSource("vqa", alike=alike)


@pytest.mark.parametrize("family", ["vqa", "grounding", "video_qa"])
def test_the_careful_annotator_is_neither_vague_nor_loose(family):
    """It differs from the perfect teacher in wording, in what it adds and in what it takes for something else."""
    same = {"annotator": 0, "careful": 0}
    for index in range(100):
        gold = WorldSource(family)[index].query
        right = parse(gold.tcot, gold.modality, len(gold.frames) or None).tcot
        for teacher in same:
            text = WorldSource(family, teacher=teacher)[index].query.tcot
            read = parse(text, gold.modality, len(gold.frames) or None).tcot
            boxes, frames = set(right.cues.boxes), set(right.cues.key_frames)
            points = boxes <= set(read.cues.boxes) and frames <= set(read.cues.key_frames)
            same[teacher] += points and read.answer == right.answer
    assert same["careful"] > 80
    assert same["annotator"] < 30

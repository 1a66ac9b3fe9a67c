import json

import pytest
from PIL import Image

from embedrl.data.formats import JsonlSource, LlavaHoundSource, MMEBSource
from embedrl.errors import DataError
from embedrl.types import Modality, Pair


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "root" / "a").mkdir(parents=True)
    Image.new("RGB", (4, 4), "red").save(tmp_path / "root" / "a" / "x.png")
    return tmp_path


def mmeb(**changes):
    row = {
        "qry": "<|image_1|>\nFind a caption.\n",
        "qry_image_path": "a/x.png",
        "pos_text": "a red square",
        "pos_image_path": "",
        "neg_text": "",
        "neg_image_path": "",
        "query_cot": "<thinking>q</thinking>",
        "pos_cot": "<thinking>p</thinking>",
    }
    return {key: value for key, value in {**row, **changes}.items() if value is not ...}


def hound(name="llavahound_qa", **changes):
    def turns(human, gpt):
        return [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]

    row = {
        "dataset_name": name,
        "qry": {"conversations": turns("<video>\nwhat happens?", "q says"), "video": [f"v/{i}.jpg" for i in range(16)]},
        "pos": {"conversations": turns("<video>p asks", "a dog barks"), "video": "images/blank.jpg"},
        "query_cot": "qc",
        "pos_cot": "pc",
    }
    return {**row, **changes}


def own(**changes):
    return {"id": "p1", "query": {"text": "q"}, "target": {"images": ["a/x.png"]}, **changes}


def open_rows(kind, folder, rows, name="set.json", **options):
    path = folder / name
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return kind(str(path), str(folder / "root"), cache_dir=str(folder / "cache"), **options)


def test_mmeb(folder):
    rows = [mmeb(), mmeb(neg_text="a blue square"), mmeb(neg_image_path="a/y.png"), mmeb(neg_text=None, pos_cot=...)]
    source = open_rows(MMEBSource, folder, rows, dataset="mscoco")
    assert (source.name, source.modality, len(source)) == ("mscoco", Modality.IMAGE, 4)
    pair = source[0]
    assert isinstance(pair, Pair)
    assert (pair.dataset, pair.id, pair.negatives) == ("mscoco", "0", ())
    assert (pair.query.text, pair.query.tcot) == ("Find a caption.", "<thinking>q</thinking>")
    assert [image.name for image in pair.query.images] == ["a/x.png"]
    assert pair.query.images[0].load().getpixel((0, 0)) == (255, 0, 0)
    assert (pair.target.text, pair.target.images, pair.target.tcot) == ("a red square", (), "<thinking>p</thinking>")
    assert [side.text for side in source[1].negatives] == ["a blue square"]
    assert [side.images[0].name for side in source[2].negatives] == ["a/y.png"]
    assert source[3].target.tcot == ""


@pytest.mark.parametrize(
    ("name", "query", "target"),
    [
        ("llavahound_qa", "what happens?", "a dog barks"),
        ("llavahound_caption_retrieval", "what happens?", "a dog barks"),
        ("llavahound_video_retrieval", "q says", "p asks"),
    ],
)
def test_llavahound(folder, name, query, target):
    source = open_rows(LlavaHoundSource, folder, [hound(name)])
    pair = source[0]
    assert (source.name, source.modality) == ("set", Modality.VIDEO)
    assert (pair.query.text, pair.target.text) == (query, target)
    assert (pair.query.tcot, pair.target.tcot) == ("qc", "pc")
    assert [f.name for f in pair.query.frames] == [f"v/{i}.jpg" for i in (0, 2, 4, 6, 8, 10, 12, 15)]
    assert pair.target.frames == ()
    assert (pair.query.fps, pair.query.modality, pair.target.modality) == (2.0, Modality.VIDEO, Modality.TEXT)


def test_llavahound_video_is_a_list_or_a_text_in_one_file(folder):
    (folder / "root" / "v").mkdir()
    for i in (1, 2, 10):
        (folder / "root" / "v" / f"{i}.jpg").touch()
    turn = {"conversations": [{"from": "human", "value": "<video>x"}, {"from": "gpt", "value": "y"}]}
    videos = ["images/blank.jpg", ["v/2.jpg"], "v", ["v"], "v/1.jpg", [], ["images/blank.jpg"]]
    source = open_rows(LlavaHoundSource, folder, [hound(qry={**turn, "video": v}) for v in videos], num_frames=3)
    read = [
        [f.name.removeprefix("v/").removesuffix(".jpg") for f in source[i].query.frames] for i in range(len(videos))
    ]
    assert read == [[], ["2"] * 3, ["1", "2", "10"], ["1", "2", "10"], ["1"] * 3, [], []]


def test_own_format(folder):
    side = {"text": "t", "frames": ["v/1.jpg", "v/2.jpg"], "tcot": "c", "fps": 29.97}
    rows = [own(), own(id="p2", query=side, target={"text": "y"}, negatives=[{"text": "n"}, {"images": ["a/z.png"]}])]
    source = open_rows(JsonlSource, folder, "\n".join(map(json.dumps, rows)) + "\n\n", "set.jsonl")
    assert [pair.id for pair in (source[0], source[1])] == ["p1", "p2"]
    pair = source[1]
    assert (pair.query.text, pair.query.tcot, pair.query.fps, pair.target.fps) == ("t", "c", 29.97, 2.0)
    assert [f.name for f in pair.query.frames] == ["v/1.jpg", "v/2.jpg"]
    assert [n.text or n.images[0].name for n in pair.negatives] == ["n", "a/z.png"]
    assert source.modality == Modality.VIDEO
    assert source[0].target.images[0].path == str(folder / "root" / "a" / "x.png")


def test_own_format_with_scores(folder):
    scored = own(id="p2", negatives=[{"text": "n"}, {"text": "m"}], score=0.75, negative_scores=[0.5, -1])
    source = open_rows(JsonlSource, folder, [own(), scored], "set.jsonl")
    assert (source[0].score, source[0].negative_scores) == (None, ())
    assert (source[1].score, source[1].negative_scores) == (0.75, (0.5, -1.0))


def test_own_format_takes_the_folder_of_the_file_as_root(folder):
    (folder / "root" / "set.jsonl").write_text(json.dumps(own()))
    source = JsonlSource(str(folder / "root" / "set.jsonl"), cache_dir=str(folder / "cache"))
    assert source[0].target.images[0].load().size == (4, 4)
    assert source.modality == Modality.IMAGE


def test_text_only_pairs(folder):
    assert open_rows(JsonlSource, folder, [own(target={"text": "t"})]).modality == Modality.TEXT


GOOD = {MMEBSource: mmeb(), LlavaHoundSource: hound(), JsonlSource: own()}
NO_TURNS = {"conversations": "x", "video": "images/blank.jpg"}
BROKEN = [
    (MMEBSource, mmeb(qry=...), "key 'qry' is missing .*: check the format"),
    (MMEBSource, mmeb(pos_text=7), "'pos_text' is 7, not a text: check the format"),
    (MMEBSource, mmeb(pos_image_path=["a"]), r"'pos_image_path' is \['a'\], not a text"),
    (MMEBSource, mmeb(qry=None), "'qry' is None, not a text"),
    (MMEBSource, mmeb(qry="<|image_1|>", qry_image_path=" "), "the query is empty, with neither text nor pixels"),
    (MMEBSource, mmeb(pos_text=" "), "the target is empty, with neither text nor pixels"),
    (MMEBSource, mmeb(qry_image_path="../x.png"), "path '../x.png' leaves the root folder"),
    (MMEBSource, mmeb(neg_image_path="/x.png"), "path '/x.png' leaves the root folder"),
    (LlavaHoundSource, hound("other"), "'dataset_name' is 'other': give one of llavahound_caption_retrieval"),
    (LlavaHoundSource, hound(pos="x"), "'pos' is 'x', not an object"),
    (LlavaHoundSource, hound(qry=NO_TURNS), "'conversations' is missing or no list of turns"),
    (LlavaHoundSource, hound(qry={"conversations": []}), "key 'video' is missing"),
    (LlavaHoundSource, hound(qry={"conversations": [], "video": [3]}), r"'video' is \[3\], not a list of texts"),
    (LlavaHoundSource, hound(qry={"conversations": [{}], "video": []}), "key 'from' is missing"),
    (LlavaHoundSource, hound(qry={"conversations": ["x"], "video": []}), "'x' is not an object"),
    (LlavaHoundSource, hound(qry={"conversations": [], "video": []}), "the query is empty"),
    (LlavaHoundSource, hound(qry={"conversations": [], "video": "none"}), "frame folder .*none does not exist"),
    (JsonlSource, own(query={"txt": "q"}), "unknown key 'txt': give any of fps, frames, gold, images, tcot, text"),
    (JsonlSource, own(positives=[]), "unknown key 'positives'"),
    (JsonlSource, own(id=3), "'id' is 3, not a text"),
    (JsonlSource, own(query={"images": "a/x.png"}), "'images' is 'a/x.png', not a list of texts"),
    (JsonlSource, own(query={}), "the query is empty"),
    (JsonlSource, own(query={"text": "q", "fps": 0}), "'fps' is 0: give a number above 0"),
    (JsonlSource, own(query={"text": "q", "fps": 10**400}), "'fps' is 10000.*: give a number above 0"),
    (JsonlSource, own(negatives={}, target={}), "the target is empty"),
    (JsonlSource, own(negatives="x"), "'negatives' is 'x', not a list of sides"),
    (JsonlSource, own(negatives=[1]), "1 is not an object"),
    (JsonlSource, own(score="high"), "'score' holds 'high': give a finite number"),
    (JsonlSource, own(score=10**400), "'score' holds 10000.*: give a finite number"),
    (JsonlSource, own(score=float("nan")), "'score' holds nan: give a finite number"),
    (JsonlSource, own(negative_scores=[0.1]), r"'negative_scores' is \[0.1\]: give a list of one number for each"),
    (
        JsonlSource,
        own(negatives=[{"text": "n"}], negative_scores=[True]),
        "'negative_scores' holds True: give a finite",
    ),
    (JsonlSource, own(negatives=[{"text": "n"}], negative_scores=0.1), "'negative_scores' is 0.1: give a list"),
]


@pytest.mark.parametrize(("kind", "row", "message"), BROKEN)
def test_a_broken_row_raises_when_it_is_asked_for(folder, kind, row, message):
    source = open_rows(kind, folder, [GOOD[kind], row], dataset="mine")
    assert isinstance(source[0], Pair)
    with pytest.raises(DataError, match=rf"^mine/(1|p1): .*{message}") as caught:
        _ = source[1]
    assert "\n" not in str(caught.value)
    if "leaves" not in message and "folder" not in message:
        assert f"{folder / 'set.json'}: row 1 (line 1): " in str(caught.value)


def test_a_file_of_another_format_raises_at_once(folder):
    with pytest.raises(DataError, match=r"every row is broken, the first: row 0 .*'qry' is .*: is MMEBSource right\?"):
        open_rows(MMEBSource, folder, [hound(), hound()])


def test_missing_files(folder):
    with pytest.raises(DataError, match=r"mine: .*none\.json does not exist .*: check the path"):
        MMEBSource(str(folder / "none.json"), str(folder / "root"), "mine", cache_dir=str(folder / "cache"))
    with pytest.raises(DataError, match=r"mine: root folder .*nowhere does not exist: give the folder"):
        MMEBSource(str(folder / "none.json"), str(folder / "nowhere"), "mine", cache_dir=str(folder / "cache"))
    source = open_rows(MMEBSource, folder, [mmeb(qry_image_path="a/none.png")])
    with pytest.raises(DataError, match=r"root/a/none\.png does not exist: check the root folder"):
        source[0].query.images[0].load()


def test_a_file_read_the_other_way_round_leaves_its_querys_negatives_out(tmp_path):
    row = {"id": "0", "query": {"text": "q"}, "target": {"text": "t"}, "negatives": [{"text": "n"}], "score": 0.5}
    (tmp_path / "pairs.jsonl").write_text(json.dumps({**row, "negative_scores": [0.1]}) + "\n")
    there, back = (JsonlSource(str(tmp_path / "pairs.jsonl"), cache_dir=str(tmp_path), swap=swap)[0] for swap in (0, 1))
    assert (back.query, back.target, back.score, back.id) == (there.target, there.query, 0.5, "0")
    assert there.negatives
    assert (back.negatives, back.negative_scores) == ((), ())

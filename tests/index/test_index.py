"""An index from its creation to its last row, with a backbone that reads letters."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from toy_embedder import ToyBackbone

pytest.importorskip("lancedb")

from embedrl.api import Embedder, Thought
from embedrl.errors import ConfigError, DataError, EmbedRLError, NonFiniteError, TooManyBadError
from embedrl.index import Index
from embedrl.metrics.confidence import ConfidenceGate
from embedrl.types import Side

WORDS = ["red fox", "owl at night", "blue boat", "two dogs", "a lighthouse", "green tea"]


@pytest.fixture(scope="module")
def embedder():
    return Embedder(ToyBackbone(), device="cpu")


@pytest.fixture(scope="module")
def index(embedder, tmp_path_factory):
    """An index in a folder with odd letters, added to twice."""
    folder = tmp_path_factory.mktemp("it's 100% #ü?")
    Image.new("RGB", (400, 200), "red").save(folder / "fox.png")
    (folder / "broken.png").write_bytes(b"no picture")
    index = Index.create(folder / "my photos.lance", embedder)
    items = [{"text": text, "year": 2000 + i} for i, text in enumerate(WORDS)]
    items += [{"text": "framed", "image": folder / "fox.png"}, {"image": folder / "broken.png"}]
    tcot = '<thinking>{"bbox_2d": [[0, 0, 500, 500]]}</thinking><rethink>x</rethink><answer>a crimson animal</answer>'
    done = index.add([*items, {"text": "thought", "image": folder / "fox.png", "tcot": tcot}], batch=4)
    assert (done.added, done.embedded, done.known, done.skipped) == (8, 8, 0, {"broken_picture": 1})
    index.again = index.add(items, batch=3)
    return index


def test_adding_again_changes_nothing(index):
    assert (index.again.added, index.again.embedded, index.again.known) == (0, 0, 7)
    assert len(index) == 8
    (line,) = Path(index.store.uri, "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "item 7"


def test_search_ranks_as_the_vectors_do(index, embedder):
    hits = index.search("red fix", k=6, where="year >= 2000")
    vectors, query = embedder.encode(WORDS, role="target"), embedder.encode("red fix")
    order = np.argsort(-(vectors @ query), kind="stable")
    assert [hit.text for hit in hits] == [WORDS[i] for i in order]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(vectors @ query)[::-1], atol=1e-5)
    assert hits[0].metadata == {"year": 2000}
    assert len(index.search("red fox", k=10_000)) == 8
    assert not len(index.search("red fox", where="year > 3000"))


def test_words_count_in_a_hybrid_search(index):
    assert index.search("crimson", hybrid=True, k=3)[0].text == "thought"  # the word stands in its T-CoT alone
    assert index.search('lighthouse ( OR " ~', hybrid=True, k=2)[0].text == "a lighthouse"


def test_a_hit_shows_its_evidence(index, embedder):
    (hit,) = index.search("thought", where="tcot != ''")
    assert hit.evidence == {"boxes": [[0, 0, 500, 500]]}
    assert hit.thumbnail.size == (256, 128)
    vector = embedder.encode(hit.item | {"tcot": hit.tcot}, role="target")
    assert vector @ embedder.encode("thought") == pytest.approx(hit.score, abs=1e-5)
    picture = index.search("thought", k=7).show()
    assert picture.width > 1000
    assert index.search("thought", k=2)._repr_png_()[:4] == b"\x89PNG"


def test_an_index_knows_its_model(index):
    other = Embedder(ToyBackbone(seed=1), device="cpu")
    for call in (lambda: Index.open(index.store.uri, other), lambda: Index.create(index.store.uri, other)):
        with pytest.raises(ConfigError, match=r"was made with .*\(\w{8}, 16 numbers a vector\), not with .*"):
            call()
    assert not index.verify(embedder=other).ok
    bare = Index.open(index.store.uri)
    assert bare.search(vector=index.embedder.encode("red fox"), k=1)[0].text == "red fox"
    with pytest.raises(ConfigError, match="opened without a model"):
        bare.search("red fox")


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({}, ConfigError, "give a query"),
        ({"text": ""}, ConfigError, "give a query"),
        ({"text": "  "}, EmbedRLError, "empty"),
        ({"text": "a", "k": 0}, ConfigError, "--k 0"),
        ({"text": "a", "where": "bogus = 1"}, ConfigError, "No field named bogus"),
        ({"text": "a", "where": "year >"}, ConfigError, "--where 'year >'"),
        ({"text": "a", "where": "year > 1 an path = ''"}, ConfigError, "--where"),
        ({"text": "a", "where": "key IN (SELECT key FROM items)"}, ConfigError, "not supported"),
        ({"text": "a", "where": "path"}, ConfigError, "boolean"),
        ({"text": "a", "reason": True}, ConfigError, "no Reasoner"),
        ({"image": "none.png"}, DataError, "none.png does not exist"),
        ({"image": "none.png", "hybrid": True}, ConfigError, "--hybrid"),
        ({"vector": np.full(16, np.nan)}, NonFiniteError, "NaN"),
        ({"vector": np.zeros(16)}, NonFiniteError, "zero"),
        ({"vector": np.ones(3)}, ConfigError, r"shape \[3\]"),
        ({"text": "a", "vector": np.ones(16)}, ConfigError, "in place of it"),
    ],
)
def test_what_is_no_search(index, options, kind, said):
    with pytest.raises(kind, match=said) as raised:
        index.search(**options)
    assert "\n" not in str(raised.value)


def test_a_new_index_of_no_rows(embedder, tmp_path):
    index = Index.create(tmp_path / "empty.lance", embedder)
    assert not len(index.search("a"))
    assert not len(index.search("a", hybrid=True))
    assert index.verify().ok
    assert index.delete("text = 'a'") == 0
    index.compact()
    assert index.stats()["rows"] == 0


def test_places_that_hold_no_index(embedder, tmp_path):
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match="no index there"):
        Index.open(tmp_path / "none.lance")
    assert not (tmp_path / "none.lance").exists()
    with pytest.raises(DataError, match="is no index"):
        Index.create(tmp_path, embedder)
    with pytest.raises(DataError, match="is no index"):
        Index.open(tmp_path / "file.txt")
    with pytest.raises(ConfigError, match="not in LanceDB's cloud"):
        Index.open("db://mine")


def test_rows_go_and_come_back(embedder, tmp_path):
    index = Index.create(tmp_path / "x.lance", embedder)
    index.add([{"text": text, "year": i} for i, text in enumerate("abcdef")])
    with pytest.raises(ConfigError, match="--where"):
        index.delete("year > 3 an text = 'a'")  # Lance by itself would read `year > 3` and delete
    with pytest.raises(ConfigError, match="one of both"):
        index.delete()
    assert index.delete("year > 3") == 2
    assert index.delete(keys=[index.search("a", k=1)[0].key, "x' OR '1' = '1"]) == 1
    assert index.add(["a", "e"]).added == 2
    assert len(index) == 5


def test_bad_items_have_a_limit(embedder, tmp_path):
    index = Index.create(tmp_path / "x.lance", embedder)
    with pytest.raises(TooManyBadError, match="--max_bad 1"):
        index.add(["a", *({"image": f"none{i}.png"} for i in range(3))], max_bad=1)
    with pytest.raises(DataError, match=r"none\.png"):
        index.add([{"image": "none.png"}], on_bad="raise")
    poisoned = Index.create(tmp_path / "y.lance", Embedder(ToyBackbone(poison="!"), device="cpu"))
    with pytest.raises(NonFiniteError, match="NaN"):
        poisoned.add(["fine", "not fine!"])
    assert len(poisoned) == 0


def test_verify_names_what_is_wrong(embedder, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "gone.png")
    index = Index.create(tmp_path / "x.lance", embedder)
    index.add(["a", "b", "c", tmp_path / "gone.png"])
    (tmp_path / "gone.png").unlink()
    rows = index.store.table.search().limit(10).to_arrow()
    again = rows.slice(1, 1).to_pylist()[0]
    broken = {**again, "key": "0" * 32, "path": "long", "vector": [1.0] * 16, "thumbnail": b"x"}
    index.store.table.add(pa.Table.from_pylist([again, broken], schema=index.store.schema))
    report = index.verify()
    assert not report.ok
    assert report.duplicates == [again["key"]]
    assert report.bad_vectors == report.bad_thumbnails == ["long"]
    assert report.missing_files == [str(tmp_path / "gone.png")]


def test_files_may_move_with_their_index(embedder, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    Image.new("RGB", (9, 9)).save(old / "1.png")
    Index.create(old / "x.lance", embedder).add(old)
    old.rename(new)
    index = Index.open(new / "x.lance", embedder)
    assert index.verify().ok
    assert index.search("a", k=1)[0].item == {"images": [str(new / "1.png")]}


class Scribe:
    """A Reasoner that answers with the item's text in capitals, and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def write(self, sides, *, role, names, on_bad):
        self.asked += [(role, side.text) for side in sides]
        return [self.tcot(side) for side in sides]

    def reason(self, items, *, role, progress):
        self.asked += [(role, side.text) for side in items]
        return [Thought(side.with_tcot(self.tcot(side))) for side in items]

    def tcot(self, side):
        return f"<thinking>t</thinking><rethink>r</rethink><answer>{side.text.upper()}</answer>"


def test_a_reasoner_writes_each_item_once_and_the_query(embedder, tmp_path):
    scribe = Scribe()
    index = Index.create(tmp_path / "x.lance", embedder, scribe)
    index.add(["a fox", "an owl"])
    index.add(["a fox", "a boat"])
    assert scribe.asked == [("target", text) for text in ("a fox", "an owl", "a boat")]
    hits = index.search("a fox", k=1, reason=True)
    assert scribe.asked[3:] == [("query", "a fox")]
    assert hits.tcot == hits[0].tcot == scribe.tcot(Side("a fox"))
    assert hits[0].score == pytest.approx(1, abs=1e-5)  # both were embedded with the same T-CoT
    assert index.search("a fox", k=1)[0].score < 0.999
    asked = len(scribe.asked)
    gap = index.search("an owl", k=2)
    delta = gap[0].score - gap[1].score
    for below, thinks in ((delta + 1e-3, True), (delta - 1e-3, False)):
        hits = index.search("an owl", reason="auto", gate=ConfidenceGate(below=below))
        assert bool(hits.tcot) is thinks
    assert scribe.asked[asked:] == [("query", "an owl")]
    for gate, reason in ((None, "auto"), (ConfidenceGate(share=0.5), "auto"), (ConfidenceGate(below=0.1), True)):
        with pytest.raises(ConfigError, match="--reason auto goes with --gate"):
            index.search("an owl", reason=reason, gate=gate)
    with pytest.raises(ConfigError, match="was made with a Reasoner and is asked for without one"):
        Index.create(tmp_path / "x.lance", embedder)
    with pytest.raises(ConfigError, match="open it with one to add"):
        Index.open(tmp_path / "x.lance", embedder).add(["new"])

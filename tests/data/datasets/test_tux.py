import pytest
from PIL import Image

from embedrl.data.datasets.tux import STAMPS, TuxSource, TuxTasks, read_stamps, split_of
from embedrl.errors import ConfigError, DataError
from embedrl.types import Modality

FOLDER = "usr/share/tuxpaint/stamps"


def stamp(root, name, caption, mode="RGB", pixel=(9, 9, 9)):
    path = root / FOLDER / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (5, 4), pixel).save(path)
    path.with_suffix(".txt").write_text(f"{caption}\nde.utf8=Etwas.\n", encoding="utf-8")


@pytest.fixture
def root(tmp_path):
    """60 captions, some of them with several pictures, and files that do not count."""
    for i in range(60):
        stamp(tmp_path, f"animals/{i:02}", f"Animal number {i}.")
        if i % 3 == 0:
            stamp(tmp_path, f"animals/cartoon/{i:02}", f"  animal  NUMBER {i}")
    folder = tmp_path / FOLDER / "animals"
    (folder / "drawing.svg").write_text("<svg/>")
    (folder / "drawing.txt").write_text("A drawing.\n")
    Image.new("RGB", (5, 4)).save(folder / "silent.png")
    return tmp_path


def test_reads_captioned_png_pictures_alone(root):
    stamps = read_stamps(root)
    assert len(stamps) == 80
    assert stamps[0].caption == "Animal number 0."
    assert stamps[0].id == "animals/00"
    assert [s.id for s in stamps] == sorted(s.id for s in stamps)
    assert len(read_stamps(root, exclude=["cartoon"])) == 60


def test_names_do_not_depend_on_where_the_stamps_lie(root):
    assert [s.picture.name for s in read_stamps(root)] == [s.picture.name for s in read_stamps(root / FOLDER)]


def test_transparency_becomes_white(tmp_path):
    stamp(tmp_path, "a/clear", "Clear.", "RGBA", (200, 0, 0, 0))
    stamp(tmp_path, "a/solid", "Solid.", "RGBA", (200, 0, 0, 255))
    colours = [s.picture.load().getpixel((2, 2)) for s in read_stamps(tmp_path)]
    assert colours == [(255, 255, 255), (200, 0, 0)]


def test_no_caption_is_in_two_splits_and_nothing_is_lost(root):
    sources = {split: TuxSource(split, root=str(root)) for split in ("train", "val", "test")}
    keys = {split: {s.key for s in source.stamps} for split, source in sources.items()}
    assert not keys["train"] & keys["val"]
    assert not keys["train"] & keys["test"]
    assert not keys["val"] & keys["test"]
    assert sum(map(len, sources.values())) == 80
    assert len(keys["train"]) > len(keys["test"]) > len(keys["val"]) > 0


def test_another_seed_is_another_split(root):
    stamps = read_stamps(root)
    assert [split_of(s, 0) for s in stamps] != [split_of(s, 1) for s in stamps]


def test_pairs_of_both_directions(root):
    there, back = TuxSource("train", "t2i", str(root)), TuxSource("train", "i2t", str(root))
    assert (there.name, back.name, there.modality) == ("tux_t2i", "tux_i2t", Modality.IMAGE)
    assert len(there) == len(back) > 0
    pair, mirrored = there[0], back[0]
    assert pair.query.modality is Modality.TEXT
    assert pair.target.modality is Modality.IMAGE
    assert (mirrored.query, mirrored.target) == (pair.target, pair.query)
    assert pair.id == mirrored.id


def test_all_pictures_of_a_caption_are_relevant(root):
    for split in ("val", "test"):
        t2i, i2t = TuxTasks(split, root=str(root)).tasks()
        assert (t2i.name, i2t.name) == ("tux_t2i", "tux_i2t")
        assert list(t2i.queries) == list(i2t.candidates)
        assert list(t2i.candidates) == list(i2t.queries)
        assert len({side.text.casefold() for side in t2i.queries}) == len(t2i.queries)
        for query, (side, judged) in enumerate(zip(t2i.queries, t2i.qrels, strict=True)):
            number = side.text.strip(".").split()[-1]
            names = {t2i.candidates[i].images[0].name.rpartition("/")[2] for i in judged}
            assert names == {f"{int(number):02}"}
            assert len(judged) == (2 if int(number) % 3 == 0 else 1)
            assert all(i2t.qrels[i] == {query: 1.0} for i in judged)


def test_missing_stamps_name_the_command(tmp_path):
    with pytest.raises(DataError, match=r"run python scripts/fetch_tux.py"):
        TuxSource(root=str(tmp_path))
    with pytest.raises(ConfigError, match="choose train, val or test"):
        TuxSource("dev", root=str(tmp_path))


def test_a_broken_caption_names_its_file(tmp_path):
    stamp(tmp_path, "a/one", " ")
    with pytest.raises(DataError, match=r"one\.txt has no caption"):
        read_stamps(tmp_path)
    (tmp_path / FOLDER / "a/one.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"one\.txt is not UTF-8"):
        read_stamps(tmp_path)


def test_other_languages_have_the_same_pictures_and_their_own_captions(tmp_path):
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    for i, word in enumerate(words):
        stamp(tmp_path, f"a/{word}", word)
        text = tmp_path / FOLDER / f"a/{word}.txt"
        lines = [word, f"fr.utf8= Mot {i // 2}. ", "de.utf8=", "not a translation", f"pt_BR.utf8=p={i}"]
        text.write_text("\n".join(lines), encoding="utf-8")
    (english,) = TuxTasks("train", ["t2i"], str(tmp_path)).tasks()
    (french,) = TuxTasks("train", ["t2i"], str(tmp_path), language="fr").tasks()
    assert french.name == "tux_t2i_fr"
    assert french.candidate_ids == english.candidate_ids
    assert list(french.candidates) == list(english.candidates)
    # Pictures whose captions are one in French are all relevant to it.
    numbers = [words.index(name.removeprefix("a/")) for name in french.candidate_ids]
    wanted = {f"Mot {n // 2}.": {i for i, m in enumerate(numbers) if m // 2 == n // 2} for n in numbers}
    assert {side.text: set(judged) for side, judged in zip(french.queries, french.qrels, strict=True)} == wanted
    assert len(wanted) < len(english.queries)
    (brazil,) = TuxTasks("train", ["i2t"], str(tmp_path), language="pt_BR").tasks()
    assert brazil.name == "tux_i2t_pt_BR"
    assert sorted(side.text for side in brazil.candidates) == sorted(f"p={n}" for n in numbers)
    with pytest.raises(ConfigError, match=r"language 'de': the train stamps have en, fr, pt_BR$"):
        TuxTasks("train", root=str(tmp_path), language="de").tasks()


def test_default_root_follows_the_cache_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("EMBEDRL_CACHE", str(tmp_path))
    assert STAMPS.root == tmp_path / "tuxpaint-stamps-2022.06.04-1"


@pytest.mark.slow
def test_the_real_stamps():
    if not STAMPS.root.is_dir():
        pytest.skip(f"no stamps at {STAMPS.root}: python scripts/fetch_tux.py")
    stamps = read_stamps(STAMPS.root)
    assert len(stamps) == 785
    assert [sum(split_of(s, 0) == split for s in stamps) for split in ("train", "val", "test")] == [542, 79, 164]
    assert len(TuxTasks("test").tasks()[0].queries) == 130
    for language, queries in {"de": 130, "es": 129, "fr": 130}.items():
        (task,) = TuxTasks("test", ["t2i"], language=language).tasks()
        assert (len(task.queries), len(task.candidates)) == (queries, 164)
    assert all(s.picture.load().mode == "RGB" for s in stamps)

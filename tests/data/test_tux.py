import subprocess

import pytest
from PIL import Image

from embedrl.data import tux_fetch
from embedrl.data.tux import TuxSource, TuxTasks, default_root, read_stamps, split_of
from embedrl.data.tux_fetch import fetch
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


@pytest.fixture
def package(root, tmp_path_factory):
    """A real Debian package with the tree of `root`."""
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        "Package: stamps\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: test\n"
    )
    (root / FOLDER / "animals/sound.ogg").write_bytes(b"x")
    path = tmp_path_factory.mktemp("deb") / "stamps.deb"
    subprocess.run(["dpkg-deb", "--build", "-Znone", str(root), str(path)], check=True, capture_output=True)
    return path


def test_fetch_checks_and_unpacks_a_given_package(package, tmp_path):
    digest = tux_fetch.hashlib.sha256(package.read_bytes()).hexdigest()
    folder = fetch(tmp_path / "out", package, sha256=digest)
    assert len(read_stamps(folder)) == 80
    assert not list(folder.rglob("*.ogg"))
    assert fetch(folder, package.with_name("gone.deb")) == folder  # already there
    assert not list(tmp_path.glob(".tux-*"))


def test_fetch_refuses_other_packages(package, tmp_path):
    with pytest.raises(DataError, match=r"has sha256 .* it is not tuxpaint-stamps-default"):
        fetch(tmp_path / "out", package)
    with pytest.raises(DataError, match=r"cannot read .*gone.deb"):
        fetch(tmp_path / "out", package.with_name("gone.deb"))
    broken = package.with_name("broken.deb")
    broken.write_bytes(package.read_bytes()[:2000])
    with pytest.raises(DataError, match="cannot unpack"):
        fetch(tmp_path / "out", broken, sha256=tux_fetch.hashlib.sha256(broken.read_bytes()).hexdigest())
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="remove it, or give another --root"):
        fetch(tmp_path / "out", package)


def test_a_failed_download_names_the_cure(tmp_path, monkeypatch):
    def refuse(command, **_):
        assert command == ["apt-get", "download", "tuxpaint-stamps-default=2022.06.04-1"]
        return subprocess.CompletedProcess(command, 100, "", "E: Version was not found\n")

    monkeypatch.setattr(tux_fetch.shutil, "which", lambda name: name)
    monkeypatch.setattr(tux_fetch.subprocess, "run", refuse)
    with pytest.raises(DataError, match=r"E: Version was not found; download https://.* --deb"):
        fetch(tmp_path / "out")


def test_default_root_follows_the_cache_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("EMBEDRL_CACHE", str(tmp_path))
    assert default_root() == tmp_path / "tuxpaint-stamps-2022.06.04-1"


@pytest.mark.slow
def test_the_real_stamps():
    if not default_root().is_dir():
        pytest.skip(f"no stamps at {default_root()}: python scripts/fetch_tux.py")
    stamps = read_stamps(default_root())
    assert len(stamps) == 785
    assert [sum(split_of(s, 0) == split for s in stamps) for split in ("train", "val", "test")] == [542, 79, 164]
    assert len(TuxTasks("test").tasks()[0].queries) == 130
    assert all(s.picture.load().mode == "RGB" for s in stamps)

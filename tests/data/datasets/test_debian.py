import hashlib
import subprocess
from dataclasses import replace

import pytest

from embedrl.data.datasets import debian
from embedrl.data.datasets.debian import Package, fetch, find
from embedrl.errors import DataError

PACKAGE = Package(
    name="some-art",
    version="2:1.0+dfsg-3",
    sha256="0" * 64,
    source="s/some",
    folder="usr/share/art",
    suffixes=(".png",),
)


@pytest.fixture
def deb(tmp_path, make_deb):
    folder = tmp_path / "tree/usr/share/art"
    (folder / "food").mkdir(parents=True)
    for name in ("a.png", "food/b.png", "food/b.ogg"):
        (folder / name).write_bytes(name.encode())
    (folder / "c.png").symlink_to("food/b.png")
    (tmp_path / "tree/usr/share/artefact").mkdir()
    (tmp_path / "tree/usr/share/artefact/x.png").write_bytes(b"x")
    return make_deb(tmp_path / "tree")


def checked(deb):
    return replace(PACKAGE, sha256=hashlib.sha256(deb.read_bytes()).hexdigest())


def test_fetch_unpacks_what_is_read_and_links_to_it(deb, tmp_path):
    package = checked(deb)
    out = fetch(package, tmp_path / "out", deb)
    folder = find(package, str(out))
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        "usr/share/art/a.png",
        "usr/share/art/c.png",
        "usr/share/art/food/b.png",
    ]
    assert (folder / "c.png").resolve() == (folder / "food/b.png").resolve()
    assert fetch(package, out, deb.with_name("gone.deb")) == out  # already there
    assert not list(tmp_path.glob(".some-art-*"))


def test_fetch_refuses_other_packages(deb, tmp_path):
    with pytest.raises(DataError, match=r"some.deb has sha256 .*, not 000.*: it is not some-art 2:1.0\+dfsg-3"):
        fetch(PACKAGE, tmp_path / "out", deb)
    with pytest.raises(DataError, match=r"cannot read .*gone.deb"):
        fetch(PACKAGE, tmp_path / "out", deb.with_name("gone.deb"))
    broken = deb.with_name("broken.deb")
    broken.write_bytes(deb.read_bytes()[:800])
    with pytest.raises(DataError, match=r"cannot unpack .*broken.deb"):
        fetch(checked(broken), tmp_path / "out", broken)
    with pytest.raises(DataError, match=r"cannot unpack .*some.deb"):
        fetch(replace(checked(deb), folder="usr/share/music"), tmp_path / "out", deb)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="remove it, or give another --root"):
        fetch(PACKAGE, tmp_path / "out", deb)


def test_a_failed_download_names_the_cure(tmp_path, monkeypatch):
    def refuse(command, **_):
        assert command == ["apt-get", "download", "some-art=2:1.0+dfsg-3"]
        return subprocess.CompletedProcess(command, 100, "", "E: Version was not found\n")

    monkeypatch.setattr(debian.shutil, "which", lambda name: name)
    monkeypatch.setattr(debian.subprocess, "run", refuse)
    url = "https://deb.debian.org/debian/pool/main/s/some/some-art_1.0+dfsg-3_all.deb"
    with pytest.raises(DataError) as raised:
        fetch(PACKAGE, tmp_path / "out")
    assert str(raised.value).endswith(f"E: Version was not found; download {url} and give it with --deb")


def test_where_a_package_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDRL_CACHE", str(tmp_path))
    assert PACKAGE.root == tmp_path / "some-art-2%3a1.0+dfsg-3"
    with pytest.raises(DataError, match=r"art does not exist: run python scripts/fetch_real_small.py, or set root"):
        find(PACKAGE, None)
    (tmp_path / "mine/usr/share/art").mkdir(parents=True)
    assert find(PACKAGE, str(tmp_path / "mine")) == tmp_path / "mine/usr/share/art"

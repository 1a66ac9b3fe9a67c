"""The scripts that fetch small real data sets, on packages made here and a server of our own."""

import functools
import hashlib
import http.server
import io
import subprocess
import tarfile
import threading
from dataclasses import replace

import debian_packages
import fetch_real_small
import fetch_tux
import pytest
from debian_packages import Package, fetch
from PIL import Image

from embedrl.data.datasets import tux
from embedrl.data.local_copy import LocalCopy
from embedrl.errors import DataError

PACKAGE = Package(
    name="some-art",
    copy=LocalCopy("art", "2:1.0+dfsg-3", "usr/share/art"),
    sha256="0" * 64,
    source="s/some",
    suffixes=(".png",),
)


def make_deb(root):
    """A real Debian package with the files of a folder."""
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        "Package: some\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: test\n"
    )
    path = root.parent / "some.deb"
    subprocess.run(["dpkg-deb", "--build", "-Znone", str(root), str(path)], check=True, capture_output=True)
    return path


def hostile_deb(path, *members):
    """A package as no honest tool writes it: members of any name."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    control = io.BytesIO()
    tarfile.open(fileobj=control, mode="w").close()
    parts = {"debian-binary": b"2.0\n", "control.tar": control.getvalue(), "data.tar": data.getvalue()}
    written = b"!<arch>\n"
    for name, content in parts.items():
        written += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
    path.write_bytes(written)
    return path


def checked(deb, package=PACKAGE):
    return replace(package, sha256=hashlib.sha256(deb.read_bytes()).hexdigest())


@pytest.fixture
def deb(tmp_path):
    folder = tmp_path / "tree/usr/share/art"
    (folder / "food").mkdir(parents=True)
    for name in ("a.png", "food/b.png", "food/b.ogg"):
        (folder / name).write_bytes(name.encode())
    (folder / "c.png").symlink_to("food/b.png")
    (tmp_path / "tree/usr/share/artefact").mkdir()
    (tmp_path / "tree/usr/share/artefact/x.png").write_bytes(b"x")
    return make_deb(tmp_path / "tree")


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder that is served in place of Debian's pool."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(debian_packages, "MIRROR", f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()
        thread.join()


def test_fetch_unpacks_what_is_read_and_links_to_it(deb, tmp_path):
    package = checked(deb)
    out = fetch(package, tmp_path / "out", deb)
    folder = package.copy.find(str(out))
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
    elsewhere = replace(PACKAGE, copy=replace(PACKAGE.copy, folder="usr/share/music"))
    with pytest.raises(DataError, match=r"cannot unpack .*some.deb"):
        fetch(checked(deb, elsewhere), tmp_path / "out", deb)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="remove it, or give another --root"):
        fetch(PACKAGE, tmp_path / "out", deb)


def entry(name, size=1, **changes):
    member = tarfile.TarInfo(name)
    member.size = size
    for key, value in changes.items():
        setattr(member, key, value)
    return member


HOSTILE = {
    "path": entry("./usr/share/art/../../../../evil.png"),
    "absolute link": entry("./usr/share/art/evil.png", 0, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "link": entry("./usr/share/art/evil.png", 0, type=tarfile.SYMTYPE, linkname="../../../../../secret.png"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_leaves_the_folder(tmp_path, case):
    deb = hostile_deb(tmp_path / "evil.deb", entry("./usr/share/art/a.png"), HOSTILE[case])
    with pytest.raises(DataError, match=r"cannot unpack .*evil\.deb \(.*outside the destination|absolute path"):
        fetch(checked(deb), tmp_path / "inner/out", deb)
    assert list((tmp_path / "inner").iterdir()) == []
    assert not list(tmp_path.rglob("evil.png"))


def test_devices_and_hard_links_are_left_out(tmp_path):
    members = [entry("./usr/share/art/a.png"), entry("./usr/share/art/b.png", 0, type=tarfile.FIFOTYPE)]
    members += [entry("./usr/share/art/c.png", 0, type=tarfile.LNKTYPE, linkname="./usr/share/art/a.png")]
    deb = hostile_deb(tmp_path / "odd.deb", *members)
    out = fetch(checked(deb), tmp_path / "out", deb)
    assert [path.name for path in out.rglob("*.png")] == ["a.png"]


def test_fetch_downloads_what_is_not_given(deb, mirror, tmp_path, capsys, monkeypatch):
    (mirror / "s/some").mkdir(parents=True)
    deb.rename(mirror / "s/some/some-art_1.0+dfsg-3_all.deb")
    package = checked(mirror / "s/some/some-art_1.0+dfsg-3_all.deb")
    monkeypatch.setenv("EMBEDRL_CACHE", str(tmp_path / "cache"))
    assert fetch(package) == tmp_path / "cache/art-2%3a1.0+dfsg-3"
    assert (package.copy.find() / "a.png").read_bytes() == b"a.png"
    assert capsys.readouterr().out == f"downloading {package.url}\n"
    with pytest.raises(DataError, match=r"has sha256 .*, not 000.*, download http://127.*_1.0\+dfsg-3_all.deb$"):
        fetch(PACKAGE, tmp_path / "out")


def test_a_failed_download_names_the_cure(mirror, tmp_path):
    with pytest.raises(DataError) as raised:
        fetch(PACKAGE, tmp_path / "out")
    cure = "get some-art 2:1.0+dfsg-3 elsewhere, such as snapshot.debian.org, and give it with --deb"
    assert str(raised.value) == f"cannot download {PACKAGE.url} (HTTP Error 404: File not found): {cure}"
    assert list(tmp_path.glob("*")) == [mirror]


def test_the_addresses_are_those_of_debian():
    assert [package.url for package in fetch_real_small.PACKAGES] == [
        "https://deb.debian.org/debian/pool/main/t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
        "https://deb.debian.org/debian/pool/main/e/eyes17-manuals/eyes17-manuals-en_5.1.2+repack-1_all.deb",
        "https://deb.debian.org/debian/pool/main/o/openclipart/openclipart-png_0.18+dfsg-19_all.deb",
        "https://deb.debian.org/debian/pool/main/o/openclipart/openclipart-svg_0.18+dfsg-19_all.deb",
    ]


@pytest.fixture
def stamps(tmp_path, monkeypatch):
    """A small package of stamps, which the scripts take for the real one."""
    folder = tmp_path / "stamps" / tux.STAMPS.folder / "animals"
    folder.mkdir(parents=True)
    for name in ("cat", "dog"):
        Image.new("RGB", (5, 4)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"A {name}.\n")
    (folder / "cat.ogg").write_bytes(b"x")
    deb = make_deb(tmp_path / "stamps")
    deb = deb.rename(tmp_path / "tuxpaint-stamps-default_1.deb")
    package = checked(deb, debian_packages.STAMPS)
    monkeypatch.setattr(fetch_tux, "STAMPS", package)
    monkeypatch.setattr(fetch_real_small, "PACKAGES", (package,))
    monkeypatch.setenv("EMBEDRL_CACHE", str(tmp_path / "cache"))
    return deb


def test_fetch_tux_takes_pictures_and_captions_alone(stamps, tmp_path, capsys):
    fetch_tux.main(root=tmp_path / "out", deb=stamps)
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 2 captioned pictures\n"
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["cat.png", "cat.txt", "dog.png", "dog.txt"]


def test_fetch_real_small_knows_a_package_by_its_file_name(stamps, tmp_path, capsys):
    fetch_real_small.main(deb=[stamps])
    assert capsys.readouterr().out == f"tuxpaint-stamps-default 2022.06.04-1: {tux.STAMPS.root}\n"
    assert len(tux.read_stamps(tux.STAMPS.root)) == 2
    with pytest.raises(SystemExit, match=r"error: --deb other\.deb: none of tuxpaint-stamps-default"):
        fetch_real_small.main(deb=[tmp_path.joinpath("other.deb").relative_to(tmp_path)])

"""Webdataset shards: read where they stand, whatever their members are called."""

import gzip
import json

import pytest
from captioned import png, shard

from embedrl.errors import DataError
from embedrl.pairs import from_webdataset, shards


def test_samples_of_several_shards(tmp_path):
    shard(tmp_path / "0.tar", {"a/1.png": png("red"), "a/1.txt": b"red", "a/1.cls": b"3", "2.png": png("blue"),
                               "2.json": json.dumps({"caption": ["blue", "azure"]}).encode()})  # fmt: skip
    shard(tmp_path / "1.tar", {"1.txt": "grün".encode(), "1.png": png("green")})
    pairs = from_webdataset(tmp_path)
    assert [item.text for item in pairs.items] == ["red", "blue", "azure", "grün"]
    assert [pairs[i].target.images[0].load().getpixel((0, 0)) for i in (0, 1, 3)] == [
        (255, 0, 0),
        (0, 0, 255),
        (0, 128, 0),
    ]
    assert pairs.items[1].content == pairs.items[2].content
    assert len(from_webdataset(tmp_path / "0.tar", text="caption", on_bad="skip")) == 2


def test_no_member_leaves_the_folder_it_is_written_to(tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    hostile = {"../../up.png": png("red"), "../../up.txt": b"up", "/abs.png": png("blue"), "/abs.txt": b"abs"}
    shard(here / "x.tar", hostile)
    out = from_webdataset(here / "x.tar").write(here / "mix")
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert len(written) == 3  # the sheet, and two pictures named by their content
    assert all(name.startswith("here/mix/") for name in written)
    assert all("up" not in name and "abs" not in name for name in written)
    assert len((out / "train.jsonl").read_text().splitlines()) == 2


SAMPLES = {
    "no picture": ({"1.txt": b"x"}, {}, "sample '1': it has no picture"),
    "no caption": ({"1.png": png("red")}, {}, "sample '1': no caption: no .txt, and it has no .json"),
    "other fields": ({"1.png": png("red"), "1.json": b'{"x": 1}'}, {}, "no .txt, and its .json has 'x'"),
    "a link": ({"1.txt": b"x"}, {"1.png": "/etc/passwd"}, "'1.png' is a link or a device"),
    "broken picture": ({"1.png": b"nothing", "1.txt": b"x"}, {}, "1.png is no picture of JPEG"),
    "broken json": ({"1.png": png("red"), "1.json": b"{"}, {}, "'1.json' is no JSON"),
    "no object": ({"1.png": png("red"), "1.json": b"[1]"}, {}, "'1.json' holds no JSON object"),
    "encoding": ({"1.png": png("red"), "1.txt": b"\xff"}, {}, "'1.txt' is not UTF-8"),
    "two pictures": (
        {"1.png": png("red"), "1.jpg": png("red"), "1.txt": b"x"},
        {},
        "two pictures, '1.png' and '1.jpg'",
    ),
    "too large": ({"1.png": b"0" * 200, "1.txt": b"x"}, {}, "'1.png' has 200 bytes, more than 100"),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_a_bad_sample(case, tmp_path, monkeypatch):
    members, links, message = SAMPLES[case]
    if case == "too large":
        monkeypatch.setattr(shards, "MAX_BYTES", 100)
    good = {"good.png": png("blue"), "good.txt": b"good"}
    path = shard(tmp_path / "x.tar", {**members, **good} if case != "too large" else members, links)
    with pytest.raises(DataError) as raised:
        from_webdataset(path)
    assert message in str(raised.value)
    if case != "too large":
        assert [item.text for item in from_webdataset(path, on_bad="skip").items] == ["good"]


def test_no_shard(tmp_path):
    with pytest.raises(DataError, match=r"holds no .tar files"):
        from_webdataset(tmp_path)
    path = shard(tmp_path / "x.tar", {"1.png": png("red"), "1.txt": b"x"})
    (tmp_path / "zipped.tar").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"zipped.tar: no tar file that can be read .*: unpack a compressed one"):
        from_webdataset(tmp_path / "zipped.tar")
    (tmp_path / "cut.tar").write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"cut.tar"):
        from_webdataset(tmp_path / "cut.tar")

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from embedrl.data.images import MAX_PIXELS, ImageFile
from embedrl.data.video import list_frames, sample_frames
from embedrl.errors import DataError
from embedrl.types import ImageSource


def saved(path, image, **options):
    image.save(path, **options)
    return ImageFile(str(path))


def pixels(source):
    image = source.load()
    assert image.mode == "RGB"
    return np.asarray(image).tolist()


def row(*values, mode):
    image = Image.new(mode, (len(values), 1))
    image.putdata(values)
    return image


def test_modes_become_rgb(tmp_path):
    red = row((255, 0, 0), (10, 20, 30), mode="RGB")
    assert pixels(saved(tmp_path / "rgb.png", red)) == [[[255, 0, 0], [10, 20, 30]]]
    assert pixels(saved(tmp_path / "palette.png", red.quantize(4))) == [[[255, 0, 0], [10, 20, 30]]]
    assert pixels(saved(tmp_path / "grey.png", row(0, 7, 255, mode="L"))) == [[[0] * 3, [7] * 3, [255] * 3]]
    assert pixels(saved(tmp_path / "bits.png", row(0, 1, mode="1"))) == [[[0] * 3, [255] * 3]]
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(np.asarray(saved(tmp_path / "cmyk.jpg", cmyk).load()).astype(int) - [255, 0, 0]).max() < 8


def test_transparency_lies_on_white(tmp_path):
    rgba = row((255, 0, 0, 255), (9, 9, 9, 0), (0, 0, 0, 51), mode="RGBA")
    assert pixels(saved(tmp_path / "rgba.png", rgba)) == [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]
    assert pixels(saved(tmp_path / "la.png", row((7, 255), (7, 0), mode="LA"))) == [[[7] * 3, [255] * 3]]
    palette = row(0, 1, mode="P")
    palette.putpalette([255, 0, 0, 0, 255, 0])
    assert pixels(saved(tmp_path / "p.png", palette, transparency=1)) == [[[255, 0, 0], [255, 255, 255]]]


def test_more_than_8_bits_are_scaled_not_clipped(tmp_path):
    grey = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert pixels(saved(tmp_path / "16.png", grey)) == [[[0] * 3, [1] * 3, [128] * 3, [255] * 3]]
    assert pixels(saved(tmp_path / "32.tif", row(0, 257, 65535, mode="I"))) == [[[0] * 3, [1] * 3, [255] * 3]]
    floats = Image.fromarray(np.array([[0.0, 0.2, 1.0, -1.0, np.nan]], np.float32))
    assert pixels(saved(tmp_path / "f.tif", floats)) == [[[0] * 3, [51] * 3, [255] * 3, [0] * 3, [0] * 3]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, orientation):
    upright = Image.fromarray(
        np.kron(np.arange(6).reshape(2, 3) * 40, np.ones((16, 16))).astype(np.uint8), "L"
    ).convert("RGB")
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if undo is None else upright.transpose(undo)
    loaded = saved(tmp_path / "x.png", stored, exif=exif).load()
    assert np.array_equal(np.asarray(loaded), np.asarray(upright))


def png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(30_000, 30_000))
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(DataError, match=r"bomb\.png has 30000 x 30000 = 900000000 pixels.*max_pixels=178956970.*raise"):
        ImageFile(str(path)).load()
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.filterwarnings("error")
def test_the_limit_is_ours_not_pillows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    source = saved(tmp_path / "x.png", Image.new("RGB", (20, 20)))
    assert source.load().size == (20, 20)
    assert ImageFile(source.path, max_pixels=400).load().size == (20, 20)
    with pytest.raises(DataError, match="max_pixels=399"):
        ImageFile(source.path, max_pixels=399).load()
    assert MAX_PIXELS == 2 * (1024 * 1024 * 1024 // 4 // 3) == 178_956_970


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif"])
def test_truncated_files_are_errors(tmp_path, suffix):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    path = tmp_path / f"x.{suffix}"
    for share in (0.9, 0.5, 0.02):
        path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
        with pytest.raises(DataError, match=rf"picture .*x\.{suffix} .*: replace the file"):
            ImageFile(str(path)).load()


def test_broken_bytes_are_data_errors_or_pictures(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(buffer, "png")
    rng = np.random.default_rng(1)
    path = tmp_path / "x.png"
    refused = []
    for _ in range(200):
        data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        data[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(data.tobytes())
        try:
            assert ImageFile(str(path), max_pixels=10_000).load().mode == "RGB"
        except DataError as error:
            refused.append(str(error))
    assert 0 < len(refused) <= 200
    assert all("x.png" in message for message in refused)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist: check the root folder"), (b"", "cannot open"), (b"hello", "cannot open")],
)
def test_no_picture(tmp_path, content, message):
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        ImageFile(str(path)).load()
    with pytest.raises(DataError, match="cannot open"):
        ImageFile(str(tmp_path)).load()


def test_a_name_is_the_path_unless_one_is_given():
    assert isinstance(ImageFile("/data/a/x.png", "a/x.png"), ImageSource)
    assert ImageFile("/data/a/x.png", "a/x.png").name == "a/x.png"
    assert ImageFile("/data/a/x.png").name == "/data/a/x.png"


def test_frames_in_natural_order(tmp_path):
    names = ["f10.jpg", "f2.jpg", "f1.png", "f02.jpg", "a.JPG"]
    for name in [*names, "notes.txt"]:
        (tmp_path / name).touch()
    assert list_frames(tmp_path) == ["a.JPG", "f1.png", "f02.jpg", "f2.jpg", "f10.jpg"]
    with pytest.raises(DataError, match="does not exist"):
        list_frames(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        list_frames(tmp_path / "empty")


@pytest.mark.parametrize(
    ("n", "k", "expected"),
    [
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (16, 8, [0, 2, 4, 6, 8, 10, 12, 15]),
        (30, 8, [0, 4, 8, 12, 16, 20, 24, 29]),
        (3, 8, [0, 0, 0, 0, 1, 1, 1, 2]),
        (1, 8, [0] * 8),
        (9, 1, [0]),
    ],
)
def test_sample_frames(n, k, expected):
    assert sample_frames(n, k) == expected


@given(n=st.integers(1, 5000), k=st.integers(1, 64))
def test_sampled_frames_are_spread_and_in_order(n, k):
    positions = sample_frames(n, k)
    assert len(positions) == k
    assert positions == sorted(positions)
    assert positions[0] == 0
    assert positions[-1] == (n - 1 if k > 1 else 0)
    for i, position in enumerate(positions):
        assert position <= i * (n - 1) / max(1, k - 1) + 1e-9 < position + 1 + 1e-6

"""The one place that opens pictures: what people have is read, anything else is one `DataError`, soon and cheaply."""

import errno
import gzip
import io
import os
import re
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from tiny_pdf import pdf

import embedrl
from embedrl.data.datasets.openclipart import read_drawings, read_tags
from embedrl.data.images import MAX_RATIO, MAX_SCANS, ImageFile, scans
from embedrl.data.pdf import read_pdf
from embedrl.errors import DataError, StorageError
from embedrl.utils.input_files import read_bounded

NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
RGB = Image.fromarray(NOISE[..., :3].copy())


def on_white(image):
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")


def palette(**options):
    image = RGB.quantize(8)
    image.info.update(options)
    return image


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
GREY_16 = (np.arange(35, dtype=np.uint32).reshape(5, 7) * 1900).astype(np.uint16)
VALID = {
    # name: the picture, how it is saved, and what must come out (None: what is stored, as RGB)
    "rgb.png": (RGB, {}, None),
    "rgba.png": (Image.fromarray(NOISE), {}, on_white(Image.fromarray(NOISE))),
    "rgba.tif": (Image.fromarray(NOISE), {}, on_white(Image.fromarray(NOISE))),
    "la.png": (Image.fromarray(NOISE).convert("LA"), {}, on_white(Image.fromarray(NOISE).convert("LA"))),
    "palette.gif": (palette(), {}, palette().convert("RGB")),
    "clear.png": (palette(), {"transparency": 3}, on_white(palette(transparency=3))),
    "bits.png": (RGB.convert("1"), {}, None),
    "16.png": (
        Image.fromarray(GREY_16), {},
        Image.fromarray((GREY_16 * (255 / 65535)).round().astype(np.uint8)).convert("RGB"),
    ),
    "cmyk.tif": (RGB.convert("CMYK"), {}, RGB.convert("CMYK").convert("RGB")),
    "grey.bmp": (RGB.convert("L"), {}, None),
    "rgb.ppm": (RGB, {}, None),
    "bits.pbm": (RGB.convert("1"), {}, None),
    "animated.gif": (palette(), {"save_all": True, "append_images": [palette().rotate(180)]}, palette().convert("RGB")),
    "animated.png": (RGB, {"save_all": True, "append_images": [RGB.rotate(180)]}, None),
    "animated.webp": (RGB, {"save_all": True, "append_images": [RGB.rotate(180)], "lossless": True}, None),
    "profile.png": (RGB, {"icc_profile": b"\0" * 500_000}, None),
    **{f"exif{turn}.png": (RGB, {"exif": exif(turn)}, RGB.transpose(undo)) for turn, undo in UPRIGHT.items()},
    f"1x{MAX_RATIO}.png": (Image.new("RGB", (1, MAX_RATIO), "red"), {}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", VALID)
def test_pictures_as_people_have_them(tmp_path, name):
    image, options, expected = VALID[name]
    image.save(tmp_path / name, **options)
    loaded = ImageFile(str(tmp_path / name)).load()
    assert loaded.mode == "RGB"
    assert np.array_equal(np.asarray(loaded), np.asarray(expected or image.convert("RGB")))


@pytest.mark.parametrize(("suffix", "mode"), [("jpg", "RGB"), ("jpg", "CMYK"), ("jpg", "L"), ("webp", "RGBA")])
def test_lossy_pictures_are_decoded_as_by_pillow_alone(tmp_path, suffix, mode):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(NOISE).convert(mode).save(path)
    with Image.open(path) as stored:
        expected = on_white(stored) if mode == "RGBA" else stored.convert("RGB")
    assert np.array_equal(np.asarray(ImageFile(str(path)).load()), np.asarray(expected))


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def compressed_text():
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * (2 << 20), zip=True)
    return encoded(RGB, "PNG", pnginfo=info)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nnewpath\nshowpage\n%%EOF\n"
NOT_MEANT = {kind: encoded(RGB, kind) for kind in ("PCX", "TGA", "ICO", "SGI", "PDF", "DDS", "EPS", "JPEG2000")}
INVALID = {
    "2 MiB of compressed text": (compressed_text, "metadata.*save it without its metadata"),
    "2 MiB of profile": (lambda: encoded(RGB, "PNG", icc_profile=b"\0" * (2 << 20)), "metadata.*without its metadata"),
    "nothing": (lambda: b"", "none of JPEG, PNG"),
    "text": (lambda: b"<html>404 not found</html>", "none of JPEG, PNG"),
    "an SVG": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "none of JPEG, PNG"),
    "an EPS": (lambda: EPS, "none of JPEG, PNG"),
    **{kind: (lambda kind=kind: NOT_MEANT[kind], "none of JPEG, PNG") for kind in NOT_MEANT},
    "1 x 20000": (lambda: encoded(Image.new("RGB", (1, 20_000)), "PNG"), "1 x 20000 pixels, .* more than 200 times"),
    "201 x 1": (lambda: encoded(Image.new("RGB", (201, 1)), "PNG"), "201 x 1 pixels, .* more than 200 times"),
    "half a PNG": (lambda: encoded(RGB, "PNG")[:90], "truncated"),
}


@pytest.mark.parametrize("name", INVALID)
@pytest.mark.parametrize("file", ["x.jpg", "x.png", "x"])
def test_what_is_no_picture_is_one_line(tmp_path, name, file):
    content, message = INVALID[name]
    (tmp_path / file).write_bytes(content())
    with pytest.raises(DataError, match=rf"picture .*/{re.escape(file)} .*({message})") as caught:
        ImageFile(str(tmp_path / file)).load()
    assert "\n" not in str(caught.value)


def test_no_program_is_started_on_a_picture(tmp_path, monkeypatch):
    def started(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", started)
    monkeypatch.setattr("subprocess.check_call", started)
    (tmp_path / "x.jpg").write_bytes(EPS)
    with pytest.raises(DataError, match="none of JPEG"):
        ImageFile(str(tmp_path / "x.jpg")).load()


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), KeyError("x"), ZeroDivisionError(), OverflowError("x"), AssertionError(), MemoryError(),
     RecursionError("x"), UnicodeDecodeError("utf-8", b"", 0, 1, "x"), Image.DecompressionBombError("x"), EOFError()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("step", ["open", "convert"])
def test_whatever_a_decoder_raises_is_a_data_error(tmp_path, monkeypatch, error, step):
    def fails(*_, **__):
        raise error

    RGB.save(tmp_path / "x.png")
    monkeypatch.setattr(*((Image, "open") if step == "open" else (Image.Image, "convert")), fails)
    with pytest.raises(DataError, match=r"cannot (open|decode) picture .*x\.png \(\S.*\): replace the file"):
        ImageFile(str(tmp_path / "x.png")).load()


def test_too_many_open_files_are_not_the_pictures_fault(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    RGB.save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(StorageError, match=r"x\.png \(Too many open files\): raise `ulimit -n`"):
        ImageFile(str(tmp_path / "x.png")).load()


def test_only_regular_files_are_read_and_nothing_hangs(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.pdf.gz")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name, message in {
        "pipe.png": "a FIFO", "folder.png": "a folder", "zero.png": "a device", "loop.png": "symbolic links",
        "no.png": "does not exist", "a" * 300: "name too long", "a\0.png": "null byte", "\ud800.png": "surrogates",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=message):
            ImageFile(str(tmp_path / name)).load()
    for read in (read_pdf, read_tags):
        with pytest.raises(DataError, match="a FIFO"):
            read(tmp_path / "pipe.pdf.gz")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_very_many_scans_is_refused(tmp_path, progressive):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    plain = encoded(noise, "JPEG", progressive=progressive, exif=exif(1), comment=b"\xff\xda" * 1000)
    first, end = plain.rfind(b"\xff\xda"), plain.rfind(b"\xff\xd9")
    tables = max(plain.rfind(b"\xff\xc4", 0, first), 0) if progressive else first
    film = b"\xff\xda\0\2" * 1000  # what stands behind the end is not decoded
    path = tmp_path / "x.jpg"
    path.write_bytes(plain + film)
    assert scans(plain + film) == (10 if progressive else 1)
    with Image.open(path) as stored:
        assert np.array_equal(np.asarray(ImageFile(str(path)).load()), np.asarray(stored.convert("RGB")))
    path.write_bytes(plain[:end] + plain[tables:end] * MAX_SCANS + plain[end:])
    with pytest.raises(DataError, match=r"x\.jpg \(a JPEG of more than 200 scans\)"):
        ImageFile(str(path)).load()


def test_nobody_else_opens_pictures():
    package = Path(embedrl.__file__).parent
    opening = [path for path in package.rglob("*.py") if re.search(r"Image\.open\(|decode_image\(", path.read_text())]
    assert opening == [package / "data" / "images.py"]


SEEDS = [
    encoded(RGB, "PNG"),
    encoded(palette(), "PNG", transparency=1),
    encoded(RGB, "JPEG", exif=exif(6)),
    encoded(palette(), "GIF", save_all=True, append_images=[palette().rotate(180)]),
    encoded(RGB, "BMP"),
    encoded(RGB, "TIFF"),
    encoded(RGB, "TIFF", compression="tiff_lzw"),
    encoded(RGB, "PPM"),
    encoded(RGB, "WEBP", lossless=True),
    encoded(RGB, "AVIF"),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    cut=st.floats(0, 1),
    keeps=st.booleans(),
)
def test_broken_bytes_are_pictures_or_data_errors(tmp_path, seed, edits, cut, keeps):
    content = bytearray(seed)
    for place, value in edits:
        content[int(place * len(content))] = value
    path = tmp_path / "x"
    path.write_bytes(content if keeps else content[: int(cut * len(content))])
    told = outcome(ImageFile(str(path), max_pixels=10_000))
    assert told == "RGB" or str(path) in told


def outcome(source):
    """What comes of a picture: its mode, or the error's line; any other exception passes."""
    try:
        return source.load().mode
    except DataError as error:
        return str(error)


def test_drawings_behind_links_keep_their_own_paths(tmp_path):
    (tmp_path / "blobs").mkdir()
    for name in ("abc", "def"):
        RGB.save(tmp_path / "blobs" / name, "PNG")
    for folder, name, blob in (("food", "pear", "abc"), ("food", "plum", "def"), ("plants", "pear", "abc")):
        place = tmp_path / "png" / folder / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(tmp_path / "blobs" / blob)
        tags = tmp_path / "svg" / folder / f"{name}.svg"
        tags.parent.mkdir(parents=True, exist_ok=True)
        tags.write_text(f"<dc:subject><rdf:li>{folder}</rdf:li></dc:subject>")
    found = read_drawings(tmp_path / "png", tmp_path / "svg", ["food", "plants"])
    assert {drawing.id: (drawing.picture.path, drawing.tags) for drawing in found} == {
        "food/pear": (str(tmp_path / "png/food/pear.png"), {"food", "plants"}),
        "food/plum": (str(tmp_path / "png/food/plum.png"), {"food"}),
    }


def seconds(read, *args):
    begin = time.perf_counter()
    read(*args)
    return time.perf_counter() - begin


@pytest.mark.parametrize("text", ["<dc:subject>" * 400_000, "<dc:subject>" + "<rdf:li" * 700_000 + "</dc:subject>"])
def test_five_megabytes_of_svg_are_read_in_linear_time(tmp_path, text):
    (tmp_path / "x.svg").write_text(text)
    assert seconds(read_tags, tmp_path / "x.svg") < 20  # minutes for an expression that goes back


def test_broken_tags_are_one_line(tmp_path):
    (tmp_path / "x.svg").write_text(f"<dc:subject><rdf:li>&#{'9' * 5000};</rdf:li></dc:subject>")
    with pytest.raises(DataError, match=r"cannot read the tags in .*x\.svg"):
        read_tags(tmp_path / "x.svg")


@pytest.mark.parametrize(
    ("box", "message"),
    [("0 0 50000 50000", "page 1 at 100 dpi has 69445 x 69445 = .*: lower dpi"), ("0 0 1 900", "more than 200 times")],
)
def test_a_page_too_large_is_refused_before_it_is_drawn(tmp_path, box, message):
    path = tmp_path / "x.pdf"
    path.write_bytes(pdf(["text"], [("title", 0)]).replace(b"0 0 144 72", box.encode()))
    page = read_pdf(path)[0][0]
    with pytest.raises(DataError, match=message):
        page.load()


def test_a_small_archive_of_very_many_bytes_is_refused(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(bytes(50_000_000)))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"x\.gz holds more than 100000 bytes"):
        read_bounded(path, 100_000)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert read_bounded(path, 50_000_000) == bytes(50_000_000)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises((EOFError, OSError, zlib.error)):
        read_bounded(path, 50_000_000)


def test_libtiff_writes_no_lines_of_its_own(tmp_path, capfd):
    path, refused = tmp_path / "x.tif", 0
    RGB.resize((64, 64)).save(path, compression="tiff_lzw")
    good = path.read_bytes()
    for place in range(8, len(good), 41):
        path.write_bytes(good[:place] + b"\xff" * 8 + good[place + 8 :])
        try:
            ImageFile(str(path)).load()
        except DataError:
            refused += 1
    assert refused > 3
    assert capfd.readouterr().err == ""

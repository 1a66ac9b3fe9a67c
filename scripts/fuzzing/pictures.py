"""Pictures, folders of frames and PDF files, from their bytes to the numbers that a model reads."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from embedrl.construction.vlm import to_messages
from embedrl.data.images import ImageFile
from embedrl.data.pdf import read_pdf
from embedrl.data.render import RenderOptions, render
from embedrl.data.video import list_frames, sample_frames
from embedrl.models.open_clip.config import make_tokenizer, read_config
from embedrl.models.open_clip.inputs import OpenClipPreprocessor
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.tcot.store import content_hash
from embedrl.types import Side
from fuzzing.mutate import ODD_TEXTS, Draw, broken
from fuzzing.rows import IMAGE_TCOT, VIDEO_TCOT, passing

MAX_PIXELS = 1 << 22
_LENIENT = RenderOptions(on_bad_tcot="lenient", on_missing_tcot="raw")
_SIDES = st.sampled_from([0, 1, 2, 7, 8, 24, 199, 201, 1000, 20_000, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1])
_MODES = [
    ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "I;16"), ("PNG", "1"), ("JPEG", "RGB"),
    ("JPEG", "L"), ("JPEG", "CMYK"), ("GIF", "P"), ("WEBP", "RGBA"), ("BMP", "RGB"), ("BMP", "1"), ("TIFF", "RGB"),
    ("TIFF", "F"), ("TIFF", "I;16"), ("TIFF", "CMYK"), ("PPM", "RGB"), ("PPM", "L"), ("AVIF", "RGB"),
]  # fmt: skip


def pictures(data: Draw, folder: Path) -> None:
    """One file, through the opener, the chat, both families' preprocessors and what is sent to a server."""
    path = folder / "a.png"
    path.write_bytes(_picture(data))
    source = ImageFile(str(path), "a.png", MAX_PIXELS)
    side = Side("find it", (source,), tcot=IMAGE_TCOT.replace("400]", f"{data.draw(st.integers(-1, 1001))}]"))
    content_hash(side)
    image = source.load()
    assert image.mode == "RGB"
    assert image.width * image.height <= MAX_PIXELS
    _read(side)


def videos(data: Draw, folder: Path) -> None:
    """A folder of frames: pictures of several sizes, broken ones, litter."""
    for index in range(data.draw(st.integers(0, 4), label="frames")):
        odd = data.draw(st.sampled_from(["", "", "", "._", ".", *ODD_TEXTS]), label="name")
        name = f"{odd}{index}.png".replace("/", "_").replace("\0", "_").encode("utf-8", "replace")[-200:]
        content = _picture(data) if data.draw(st.integers(0, 3)) == 0 else _plain("PNG", "RGB", _size(data))
        (folder / name.decode("utf-8", "replace")).write_bytes(content)
    names = list_frames(folder)
    names = [names[i] for i in sample_frames(len(names), data.draw(st.integers(1, 9), label="sampled"))]
    side = Side("", frames=tuple(ImageFile(f"{folder}/{name}", name, MAX_PIXELS) for name in names), tcot=VIDEO_TCOT)
    content_hash(side)
    _read(side)


def pdfs(data: Draw, folder: Path) -> None:
    """A PDF file: its outline, its pages, their text."""
    content = _pdf(data)
    if data.draw(st.integers(0, 2), label="broken"):
        content = broken(data, content)
    path = folder / "a.pdf"
    if data.draw(st.integers(0, 5), label="packed") == 5:
        path = folder / "a.pdf.gz"
        content = broken(data, gzip.compress(content)) if data.draw(st.booleans()) else gzip.compress(content)
    path.write_bytes(content)
    pages, _ = read_pdf(path, dpi=data.draw(st.sampled_from([20, 100])))
    for page in pages[:3]:
        with passing():
            page.text()
        with passing():
            page.load()


def _read(side: Side) -> None:
    chat = render(side, _LENIENT)
    to_messages(chat, "jpeg", 4096)
    for preprocessor in preprocessors():
        with passing():
            preprocessor([chat])


@cache
def preprocessors() -> tuple[Any, Any]:
    """Those of both families of models."""
    backbone = QwenVLBackbone("embedrl:tiny", max_length=4096)
    plain = OpenClipPreprocessor(
        make_tokenizer(read_config("ViT-B-32", None)), lambda image: _tensor(image), 77, (8, 8)
    )
    return backbone.preprocessor(), plain


def _tensor(image: Image.Image) -> Any:
    import torch

    return torch.zeros(3, *image.resize((8, 8)).size)


def _size(data: Draw) -> tuple[int, int]:
    sides = st.sampled_from([1, 2, 7, 8, 24, 33, 200, 201])
    return data.draw(sides, label="width"), data.draw(sides, label="height")


def _plain(kind: str, mode: str, size: tuple[int, int], **options: Any) -> bytes:
    image = Image.linear_gradient("L").resize(size)
    made = (
        Image.new(mode, size, 40000) if mode == "I;16" else image.convert("RGB").convert(mode) if mode == "P" else None
    )
    if made is None:
        made = (
            image.convert("RGBA").convert(mode)
            if mode in ("RGBA", "LA")
            else image.convert("F" if mode == "F" else "RGB")
        )
        made = made if made.mode == mode else made.convert(mode)
    buffer = io.BytesIO()
    made.save(buffer, kind, **options)
    return buffer.getvalue()


def _picture(data: Draw) -> bytes:
    kind = data.draw(st.sampled_from(["plain", "plain", "png", "frames"]), label="kind")
    if kind == "png":
        content = _png(data)
    elif kind == "frames":
        frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
        form = data.draw(st.sampled_from(["GIF", "PNG", "WEBP", "TIFF"]), label="format")
        buffer = io.BytesIO()
        frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
        content = buffer.getvalue()
    else:
        form, mode = data.draw(st.sampled_from(_MODES), label="format")
        options: dict[str, Any] = {}
        if form in ("JPEG", "PNG", "WEBP", "TIFF"):
            exif = Image.Exif()
            exif[0x0112] = data.draw(st.sampled_from([0, 1, 2, 5, 6, 8, 9, 65535]), label="orientation")
            options["exif"] = exif
        if form == "TIFF":
            compression = ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", *(["jpeg"] if mode == "RGB" else [])]
            options = {"compression": data.draw(st.sampled_from(compression), label="compression")}
        if form == "JPEG":
            options["progressive"] = data.draw(st.booleans(), label="progressive")
        content = _plain(form, mode, _size(data), **options)
    return broken(data, content) if data.draw(st.integers(0, 4), label="broken") else content


def _png(data: Draw) -> bytes:
    """A PNG whose chunks are intact, whatever they say."""
    header = struct.pack(
        ">IIBBBBB", data.draw(_SIDES, label="width"), data.draw(_SIDES, label="height"),
        data.draw(st.sampled_from([1, 2, 4, 8, 16, 0, 3])), data.draw(st.sampled_from([0, 2, 3, 4, 6, 1, 7])), 0, 0,
        data.draw(st.integers(0, 2)),
    )  # fmt: skip
    parts = [(b"IHDR", header)]
    for _ in range(data.draw(st.integers(0, 3), label="chunks")):
        kind = data.draw(st.sampled_from([
            b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"pHYs",
            b"sBIT", b"cHRM", b"IHDR", b"IEND",
        ]), label="chunk")  # fmt: skip
        parts.append(
            (kind, data.draw(st.one_of(st.binary(max_size=40), st.just(b"x\0\0" + zlib.compress(bytes(1 << 21))))))
        )
    parts += [
        (b"IDAT", zlib.compress(bytes(data.draw(st.sampled_from([0, 10, 4000, 1 << 20]), label="pixels")))),
        (b"IEND", b""),
    ]
    packed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _pdf(data: Draw) -> bytes:
    """A PDF of two pages with an outline; sizes, numbers and references may be any."""
    number = st.sampled_from([*["144"] * 6, "0", "-1", "1e9", "50000", "2147483648", "nan", "0.0001"])
    place = st.sampled_from([*["4 0 R"] * 4, "6 0 R", "99 0 R", "1 0 R", "null", "[4 0 R]"])
    title = data.draw(
        st.sampled_from(["(One)", "()", "<FEFFD800>", "<FFFE41>", "(\\000)", "/Name", "8 0 R"]), label="title"
    )
    draw = "1 0 0 rg 0 0 72 72 re f 0 g BT /F 8 Tf 76 40 Td (some words) Tj ET"
    page = "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {} {}] /Contents 5 0 R /Resources << /Font << /F 3 0 R >> >> >>"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R /Outlines 7 0 R >>",
        f"<< /Type /Pages /Count {data.draw(st.sampled_from([2, 2, 1, -1, 10**9]))} /Kids [4 0 R 6 0 R] >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        page.format(data.draw(number, label="width"), data.draw(number, label="height")),
        f"<< /Length {len(draw)} >>\nstream\n{draw}\nendstream",
        page.format(144, 72),
        f"<< /Type /Outlines /First 8 0 R /Last {data.draw(place)} /Count 1 >>",
        f"<< /Title {title} /Parent 7 0 R /Next {data.draw(place)} /Dest [{data.draw(place, label='page')} /Fit] >>",
    ]
    content, places = b"%PDF-1.4\n", []
    for index, body in enumerate(objects, 1):
        places.append(len(content))
        content += f"{index} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{at:010} 00000 n \n" for at in places)
    trailer = f"xref\n0 9\n0000000000 65535 f \n{table}trailer\n<< /Size 9 /Root 1 0 R >>\n"
    return content + f"{trailer}startxref\n{len(content)}\n%%EOF\n".encode()

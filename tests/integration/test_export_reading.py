"""An export reads as training read: pictures as people have them, and videos, through every loader.

A folder's own reload and `embedrl.inference.SentenceTransformersModule` give training's vectors, always.
sentence-transformers and transformers read the folder by themselves: where they differ, the table of
docs/how_to/export.md says so, and this file says by how much.
"""

import io
import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageOps
from transformers import AutoModel, AutoProcessor

from embedrl.data import ImageFile
from embedrl.data.render import RenderOptions
from embedrl.inference import FrozenEmbedder, SentenceTransformersModule
from embedrl.inference.sentence_module import to_side
from embedrl.models import OpenClipBackbone, PixelBudget, QwenVLBackbone
from embedrl.training.model_card import write_card
from embedrl.types import Side

pytestmark = pytest.mark.slow
sentence_transformers = pytest.importorskip("sentence_transformers")

CPU = torch.device("cpu")
BUDGETS = {
    "image_pixels": PixelBudget(1024, 2304),
    "evidence_pixels": PixelBudget(2304, 6912),
    "frame_pixels": PixelBudget(2304, 4096),
}
EXACT = 0.9999


def blocks(seed, width=4, height=6):
    """A picture of coloured squares: whatever turns or recolours it, changes what a model sees."""
    colours = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(np.kron(colours, np.ones((8, 8, 1), np.uint8)))


def pictures(folder):
    """Name → file."""
    base, other = blocks(0), blocks(2)
    mask = np.random.default_rng(1).integers(0, 2, (6, 4), dtype=np.uint8) * 255
    alpha = Image.fromarray(np.kron(mask, np.ones((8, 8), np.uint8)))
    rgba, la = base.copy(), base.convert("L")
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    deep = Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 200)
    files = {
        "RGB": (base, "rgb.png", {}),
        "RGBA": (rgba, "rgba.png", {}),
        "LA": (la, "la.png", {}),
        "palette": (base.convert("P"), "palette.png", {}),
        "palette, transparent": (rgba.quantize(32), "transparent.png", {}),
        "16 bits": (deep, "deep.png", {}),
        "CMYK": (base.convert("CMYK"), "cmyk.jpg", {"quality": 95}),
        "1 x N": (base.resize((2, 240)), "narrow.png", {}),
        "animated GIF": (
            base.convert("P"),
            "moving.gif",
            {"save_all": True, "append_images": [other]},
        ),
        "animated WebP": (base, "moving.webp", {"save_all": True, "append_images": [other], "lossless": True}),
    }
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"EXIF {orientation}"] = (base, f"exif{orientation}.jpg", {"exif": exif, "quality": 95})
    for image, name, options in files.values():
        image.save(folder / name, **options)
    return {kind: folder / name for kind, (_, name, _) in files.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def trained():
    backbone = QwenVLBackbone("embedrl:world_base", **BUDGETS)
    backbone.build()
    return backbone.eval()


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    place = tmp_path_factory.mktemp("export") / "model"
    trained.export(place)
    return place


@pytest.fixture(scope="module")
def plain(folder):
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def module(folder):
    return sentence_transformers.SentenceTransformer(modules=[SentenceTransformersModule(folder)], device="cpu")


@pytest.fixture(scope="module")
def alone(folder):
    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def embed(content, **options):  # as docs/how_to/python.md has it
        chat = [{"role": "user", "content": content}]
        inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt", **options)
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0]
        at = (inputs["input_ids"][0] == model.config.emb_token_ids[0]).nonzero()[-1]
        return torch.nn.functional.normalize(hidden[at], dim=-1)[0]

    return embed


def embed(backbone, side, render="none"):
    return FrozenEmbedder(backbone, RenderOptions(tcot=render)).embed([side], ["side"], CPU)[0]


def one(model, item, **options):
    return model.encode([item], convert_to_tensor=True, **options)[0]


@pytest.fixture(scope="module")
def again(folder):
    return QwenVLBackbone(str(folder))


BY_PATH = {"RGBA": 0.9, "LA": 0.9, "palette, transparent": 0.8, "16 bits": 0.8}
"""What transformers reads otherwise from a file: at most this cosine."""
REFUSED_BY_PATH = ("animated GIF", "animated WebP")
FROM_PILLOW = {"16 bits": 0.8} | {f"EXIF {orientation}": 0.9 for orientation in range(2, 9)}
"""What transformers reads otherwise from a picture of Pillow's."""
KINDS = [
    *("RGB", "RGBA", "LA", "palette", "palette, transparent", "16 bits", "CMYK", "1 x N", "animated GIF"),
    *("animated WebP", *(f"EXIF {orientation}" for orientation in range(2, 9))),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_pictures_as_people_have_them(kind, files, trained, again, module, plain, alone):
    path = files[kind]
    vector = embed(trained, Side(images=(ImageFile(str(path)),)))

    def picture():
        return Image.open(path)

    ours = {
        "reload": embed(again, Side(images=(ImageFile(str(path)),))),
        "module, path": one(module, str(path)),
        "module, Pillow": one(module, picture()),
        "module, dict": one(module, {"image": str(path)}),
    }
    for name, other in ours.items():
        assert vector @ other >= EXACT, name
    theirs = {
        "sentence-transformers, Pillow": lambda: one(plain, picture()),
        "sentence-transformers, dict": lambda: one(plain, {"image": picture()}),
        "transformers, Pillow": lambda: alone([{"type": "image", "image": picture()}]),
    }
    for name, read in theirs.items():
        close(vector @ read(), FROM_PILLOW.get(kind), name)
    for name, read in {
        "sentence-transformers, path": lambda: one(plain, str(path)),
        "transformers, path": lambda: alone([{"type": "image", "path": str(path)}]),
    }.items():
        if kind in REFUSED_BY_PATH:
            with pytest.raises((ValueError, RuntimeError)):
                read()
        else:
            close(vector @ read(), BY_PATH.get(kind), name)


def close(cosine, at_most, name):
    """Training's vector, or one as far from it as the documentation says."""
    if at_most is None:
        assert cosine >= EXACT, name
    else:
        assert cosine <= at_most, f"{name}: no longer different: take it out of the documentation"


def test_a_picture_without_its_orientation_is_upright_after_pillows_own_cure(files, trained, plain):
    path = files["EXIF 6"]
    vector = embed(trained, Side(images=(ImageFile(str(path)),)))
    assert vector @ one(plain, ImageOps.exif_transpose(Image.open(path))) >= EXACT
    for kind in ("RGBA", "palette, transparent", "16 bits"):
        loaded = ImageFile(str(files[kind])).load()
        assert embed(trained, Side(images=(ImageFile(str(files[kind])),))) @ one(plain, loaded) >= EXACT


def test_prompts_and_the_order_of_a_dict(files, trained, plain, module):
    source = ImageFile(str(files["RGB"]))
    picture = source.load()
    cases = [
        (Side("find : the red star"), "the red star", "find : "),
        (Side("find : ", images=(source,)), picture, "find : "),
        (Side("find : red", images=(source,)), {"text": "red", "image": picture}, "find : "),
        (Side("red", images=(source,)), {"text": "red", "image": picture}, None),
        (Side("red < |im_end|> star < emb>"), "red <|im_end|> star <emb>", None),
        (Side("two", images=(source, source)), {"text": "two", "image": [picture, picture]}, None),
    ]
    for side, item, prompt in cases:
        vector = embed(trained, side)
        for model in (plain, module):
            assert vector @ one(model, item, prompt=prompt) >= EXACT, side.text
    chat = [{"role": "system", "content": "find : "}, {"role": "user", "content": "the red star"}]
    assert embed(trained, Side("find : the red star")) @ one(plain, chat) >= EXACT


@pytest.mark.parametrize("count", [3, 8])
@pytest.mark.filterwarnings("ignore")
def test_videos(count, trained, again, plain, module, alone, tmp_path):
    frames = [blocks(10 + i, 4, 4) for i in range(count)]  # 32 x 32: below the least pixels of a frame
    for i, frame in enumerate(frames):
        frame.save(tmp_path / f"{i}.png")
    side = Side(frames=tuple(ImageFile(str(tmp_path / f"{i}.png")) for i in range(count)))
    vector = embed(trained, side)
    assert vector @ embed(again, side) >= EXACT
    metadata = {"fps": 2.0, "total_num_frames": count, "frames_indices": list(range(count))}
    array = np.stack([np.asarray(frame).transpose(2, 0, 1) for frame in frames])
    with_metadata = {"video": {"array": array, "video_metadata": metadata}}
    for item in ({"video": frames}, frames, with_metadata):
        assert vector @ one(module, item) >= EXACT
    # transformers counts pixels over all frames: the size of so many is given with the call.
    budget = BUDGETS["frame_pixels"]
    size = {"shortest_edge": count * budget.min_pixels, "longest_edge": count * budget.max_pixels}
    options = {"do_sample_frames": False, "size": size, "cap_pixels_per_frame": False}
    assert vector @ one(plain, with_metadata, processing_kwargs={"video": options}) >= EXACT
    content = [{"type": "video", "video": frames}]
    assert vector @ alone(content, processor_kwargs=options | {"video_metadata": [metadata]}) >= EXACT
    assert vector @ one(plain, with_metadata) <= 0.9  # without that size
    assert vector @ one(plain, {"video": frames}, processing_kwargs={"video": options}) <= 0.9  # taken for 24 a second


def test_evidence_keeps_its_budget(trained, again, files, tmp_path):
    thinking = '<thinking> a star {"bbox_2d": [[0, 0, 700, 700]]} </thinking>'
    tcot = f"{thinking} <rethink> so </rethink> <answer> a star </answer>"
    blocks(3, 12, 12).save(tmp_path / "large.png")
    side = Side(images=(ImageFile(str(tmp_path / "large.png")),), tcot=tcot)
    vector = embed(trained, side, "full")
    assert vector @ embed(again, side, "full") >= EXACT
    without = QwenVLBackbone(again.path, **BUDGETS | {"evidence_pixels": BUDGETS["image_pixels"]})
    assert vector @ embed(without, side, "full") < 0.99, "the budget of evidence must matter here"


def test_a_picture_in_memory_is_read_as_its_file(files):
    for kind, path in files.items():
        memory = Image.open(io.BytesIO(path.read_bytes()))
        ours, theirs = to_side(memory).images[0].load(), ImageFile(str(path)).load()
        assert ours.tobytes() == theirs.tobytes(), kind


CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """An OpenCLIP Embedder and its folder."""
    place = tmp_path_factory.mktemp("clip")
    (place / "clip.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    backbone = OpenClipBackbone(str(place / "clip.json"))
    backbone.build()
    backbone.eval().export(place / "model")
    return backbone, place / "model"


def test_an_open_clip_export_reads_alike_through_the_module(clip, files):
    backbone, folder = clip
    model = sentence_transformers.SentenceTransformer(modules=[SentenceTransformersModule(folder)], device="cpu")
    assert model.get_embedding_dimension() == 12
    for kind, path in files.items():
        vector = embed(backbone, Side(images=(ImageFile(str(path)),)))
        for item in (str(path), Image.open(path), {"image": Image.open(path)}):
            assert vector @ one(model, item) >= EXACT, kind
    sides = {
        "a dog 🐕 on a log": Side("a dog 🐕 on a log"),
        "a cat <end_of_text> on a red car": Side("a cat <end_of_text> on a red car"),
    }
    for text, side in sides.items():
        assert embed(backbone, side) @ one(model, text) >= EXACT
    both = Side("a dog", images=(ImageFile(str(files["RGBA"])),))
    assert embed(backbone, both) @ one(model, {"text": "a dog", "image": str(files["RGBA"])}) >= EXACT


def test_what_open_clip_alone_reads_otherwise(clip, files):
    backbone, folder = clip
    plain_clip, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    plain_clip.eval()

    def picture_vector(image):
        with torch.no_grad():
            return plain_clip.encode_image(transform(image)[None], normalize=True)[0]

    for kind in ("RGBA", "palette, transparent", "16 bits", "EXIF 6"):
        vector = embed(backbone, Side(images=(ImageFile(str(files[kind])),)))
        assert vector @ picture_vector(Image.open(files[kind])) < EXACT, kind
        assert vector @ picture_vector(ImageFile(str(files[kind])).load()) >= EXACT, kind
    text = "a photo of a cat <end_of_text> sitting on a red car"
    with torch.no_grad():
        cut, same, other = plain_clip.encode_text(
            tokenizer([text, "a photo of a cat", "a photo of a cat < end_of_text> sitting on a red car"]),
            normalize=True,
        )
    assert cut @ same >= EXACT  # the token ends the text
    assert cut @ embed(backbone, Side(text)) < EXACT
    assert other @ embed(backbone, Side(text)) >= EXACT


def test_sentence_transformers_alone_refuses_an_open_clip_export(clip):
    with pytest.raises((OSError, ValueError)):
        sentence_transformers.SentenceTransformer(str(clip[1]), device="cpu")
    write_card(clip[1], clip[0], "my_embedder")
    assert "SentenceTransformersModule" in (clip[1] / "README.md").read_text()

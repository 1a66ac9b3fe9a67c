"""Small data sets in the released formats and the project's own, and the command line in this process."""

import json

import yaml
from PIL import Image

from embedrl.cli import main


def picture(path, colour=(200, 30, 30), size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour)
    image.paste((255, 255, 255), (5, 5, 15, 15))
    image.save(path)


def released(folder, rows=3):
    """An MMEB-style set, a llavahound-style set and one in the project's own format, under one root; their mix."""
    root = folder / "data"
    mmeb, hound, own = [], [], []
    for i in range(rows):
        picture(root / f"images/{i}.png", (i * 20, 90, 160))
        for k in range(9):
            picture(root / f"frames/{i}/{k}.jpg", (i * 20, k * 20, 0))
        mmeb.append({
            "qry": "<|image_1|>\nWhat is it?", "qry_image_path": f"images/{i}.png", "pos_text": f"thing {i}",
            "pos_image_path": "", "neg_text": "a rock", "neg_image_path": "", "query_cot": "", "pos_cot": "",
        })  # fmt: skip
        talk = [{"from": "human", "value": f"<video>\nwhat happens in {i}?"}, {"from": "gpt", "value": f"event {i}"}]
        video = [f"frames/{i}/{k}.jpg" for k in range(9)]
        hound.append({
            "dataset_name": "llavahound_qa", "qry": {"conversations": talk, "video": video},
            "pos": {"conversations": talk, "video": "images/blank.jpg"}, "query_cot": "", "pos_cot": "",
        })  # fmt: skip
        own.append({"id": f"p{i}", "query": {"text": f"page {i}"}, "target": {"images": [f"images/{i}.png"]}})
    (root / "mmeb.json").write_text(json.dumps(mmeb))
    (root / "hound.json").write_text(json.dumps(hound))
    (root / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    sources = [("MMEBSource", "mmeb.json", "image_root"), ("LlavaHoundSource", "hound.json", "frames_root")]
    sources.append(("JsonlSource", "own.jsonl", "root"))
    return write_mix(
        folder / "mix.yaml",
        [
            source(
                f"embedrl.data.formats.{kind}",
                path=str(root / file),
                cache_dir=str(folder / "cache"),
                **{key: str(root)},
            )
            for kind, file, key in sources
        ],
    )


def source(class_path, weight=1.0, **init_args):
    return {"source": {"class_path": class_path, "init_args": init_args}, "weight": weight}


def world(family, size, **init_args):
    return source("embedrl.data.world.WorldSource", family=family, size=size, **{"teacher": "none", **init_args})


def write_mix(path, rows):
    path.write_text(yaml.safe_dump(rows))
    return path


def vlm(server, **options):
    """The flag that names the endpoint."""
    init_args = {"base_url": server if isinstance(server, str) else server.url, "model": "m", "backoff": 0, **options}
    return ["--vlm", json.dumps({"class_path": "embedrl.construction.EndpointVLM", "init_args": init_args})]


def run(*words):
    return main([str(word) for word in words])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def annotate(mix, server, out, *more, **options):
    return run("annotate", "--mix", mix, "--out", out, "--style", "brief", *vlm(server, **options), *more)

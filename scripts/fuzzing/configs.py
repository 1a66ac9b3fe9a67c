"""YAML as people write it, through the command line: the recipes and mixes of `configs`, nearly right."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from fuzzing.harness import command
from fuzzing.mutate import TEXTS, VALUES, Draw, broken, mutated
from fuzzing.rows import write_pictures

CONFIGS = Path(__file__).parents[2] / "configs"
_COMMANDS = {
    "quickstart/embedder.yaml": "fit", "quickstart/reasoner.yaml": "fit", "quickstart/egrl.yaml": "fit",
    "embedder/tux_tiny.yaml": "validate", "construction/annotate.yaml": "annotate",
    "construction/filter.yaml": "filter",
    "construction/split.yaml": "split", "eval/world.yaml": "eval", "eval/real_small.yaml": "eval",
}  # fmt: skip
_LINES = [
    "model: {}", "data: [", "\ttab: 1", "a: &a [*a]", "<<: {x: 1}", "x: !!python/object:os.system {}",
    "? [1, 2]\n: 3", "---", "...",
    "trainer: {max_steps: 1}", "trainer: null", "seed_everything: maybe", "mix: ${oc.env:NONE}", "mix: ${x",
    "%YAML 9.9", "key: @x",
    "a: &b {}\nc: {<<: *b, d: *b}", "\u2028x: 1", "x: 0o8", "x: 1_000", "x: 2026-99-99", "x: 2026-11-28 25:00:00",
    "x: =", "[]: 1",
    "1: 2", "null: 1", "true: 1", "x: !!binary ###", "x: !!set {a}", "x: !!timestamp x", "x: .inf", "'': 1",
    "x: |2-\n a",
]  # fmt: skip
_MIX = [
    {
        "source": {"class_path": "embedrl.data.JsonlSource", "init_args": {"path": "own.jsonl", "cache_dir": "cache"}},
        "weight": 1.0,
    },
    {
        "source": {
            "class_path": "embedrl.data.world.WorldSource",
            "init_args": {"family": "vqa", "size": 2, "teacher": "none"},
        }
    },
]
_ROW = '{"id": "p", "query": {"text": "page", "images": ["a.png"]}, "target": {"text": "words"}}\n'


def configs(data: Draw, folder: Path) -> None:
    """A recipe is parsed to its end; a mix is also read by `data stats` and `filter`."""
    if data.draw(st.booleans(), label="recipe"):
        name = data.draw(st.sampled_from([*_COMMANDS]), label="name")
        file = folder / "configs" / name
        shutil.copytree(CONFIGS, folder / "configs")
        file.write_bytes(_file(data, file.read_text()))
        flag = data.draw(st.sampled_from(["--config", "--config="]), label="flag")
        words = [flag, str(file)] if flag == "--config" else [f"{flag}{file}"]
        command([_COMMANDS[name], *words, *_flags(data), "--print_config"], folder)
        return
    write_pictures(folder)
    (folder / "own.jsonl").write_text(_ROW)
    (folder / "mix.yaml").write_bytes(_file(data, yaml.safe_dump(_MIX, sort_keys=False)))
    mix = ["--mix", "mix.yaml"]
    if data.draw(st.booleans(), label="stats"):
        command(["data", "stats", *mix, "--limit", "2"], folder)
    else:
        command(["filter", *mix, "--out", "out", "--checks", "[duplicate]", "--on_bad", "skip"], folder)


def _file(data: Draw, text: str) -> bytes:
    """A YAML file whose tree, lines or bytes are changed."""
    kind = data.draw(st.sampled_from(["tree", "tree", "tree", "lines", "bytes", "value"]), label="kind")
    if kind == "tree":
        document: Any = mutated(data, yaml.safe_load(text))
    elif kind == "value":
        document = data.draw(VALUES, label="document")
    elif kind == "lines":
        lines = text.splitlines()
        at = data.draw(st.integers(0, len(lines)), label="line")
        return "\n".join([*lines[:at], data.draw(st.sampled_from(_LINES), label="new"), *lines[at:]]).encode()
    else:
        return broken(data, text.encode())
    return yaml.dump(document, sort_keys=False, allow_unicode=data.draw(st.booleans())).encode("utf-8", "surrogatepass")


def _flags(data: Draw) -> list[str]:
    """Now and then a flag on the command line that is nearly right, too."""
    if data.draw(st.integers(0, 3), label="flags"):
        return []
    name = data.draw(st.sampled_from([
        "--model", "--data", "--trainer", "--trainer.max_steps", "--seed_everything", "--mix", "--vlm", "--out",
        "--caps", "--tasks",
        "--model.init_args.backbone", "--data.init_args.batch_size", "--x", "--", "--config", "--render.tcot",
        "--ckpt_path",
        "--model.init_args.optimizer", "--trainer.callbacks+", "--model.help", "--encode", "--rl", "--checks",
    ]), label="flag name")  # fmt: skip
    value = data.draw(TEXTS, label="flag value").replace("\0", "")  # no process gets one in its words
    return [name, value] if data.draw(st.booleans()) else [f"{name}={value}"]

"""The exit codes of docs/reference/commands.md, for a failing call of every command: one line, no traceback."""

import json

import pytest

from embedrl.cli import COMMANDS, main

ROW = '{"id": "p", "query": {"text": "page"}, "target": {"text": "words"}}\n'
MIX = "[{source: {class_path: embedrl.data.JsonlSource, init_args: {path: %s, cache_dir: cache}}}]"
TINY = "--backbone embedrl.QwenVLBackbone --backbone.path embedrl:tiny"
CALLS = {
    # the words: the exit code, and what the line must name
    "fit --config gone.yaml": (2, "gone.yaml"),
    "fit --config=list.yaml": (2, "--config list.yaml: holds no options"),
    "fit --model embedrl.EmbedderModule": (2, "--model"),
    "fit --ckpt_path": (2, "--ckpt_path"),
    "validate --trainer.max_stepz 3": (2, "max_steps"),
    "test --config": (2, "--config"),
    "predict --model NoModule": (2, "NoModule"),
    "stages --out out": (2, "--stages"),
    "stages --out out --stages []": (2, "give at least one stage"),
    'stages --out out --stages [{"name":"a","command":"fit","config":["gone.yaml"]}]': (2, "gone.yaml"),
    'stages --out out --stages [{"name":"a","command":"export"}]': (1, "stage a ended with exit code 2"),
    "plan": (2, "--model"),
    "plan --config empty.yaml": (2, "--config empty.yaml: holds no options"),
    "export --checkpoint gone.ckpt --out out": (1, "gone.ckpt"),
    "export --checkpoint list.yaml --out out": (1, "list.yaml"),
    "export --checkpoint list.yaml --out data": (2, "--out data"),
    "export --checkpoint list.yaml": (2, "--out"),
    "reason --checkpoint gone --text x": (1, "gone"),
    "reason --checkpoint list.yaml": (2, "--text"),
    "merge --models [data] --out out": (2, "give two or more"),
    "merge --models [data,data] --out out": (1, "give a folder of `embedrl export`"),
    f"mine --mix gone_rows.yaml --out out {TINY}": (1, "gone.jsonl"),
    f"mine --mix good.yaml --out out --options.share 2 {TINY}": (2, "--options.share"),
    f"gain --mix gone_rows.yaml --out out {TINY}": (1, "gone.jsonl"),
    f"gain --mix good.yaml --out out --render.tcot none {TINY}": (2, "--render.tcot none"),
    "judge check": (2, "--judge"),
    "judge check --judge embedrl.rl.ReferenceJudge --sources embedrl.data.world.WorldSource": (2, "--sources"),
    "recipes gone": (2, "gone"),
    "recipez": (2, "embedrl recipes"),
    "annotate --mix good.yaml --out out --vlm null": (2, "--vlm"),
    "annotate --mix gone.yaml --out out": (2, "gone.yaml"),
    "filter --mix gone_rows.yaml --out out": (1, "gone.jsonl"),
    "filter --mix broken_rows.yaml --out out": (1, "every row is broken"),
    "filter --mix good.yaml --out out --threshold 2": (2, "--threshold 2"),
    "filter --mix good.yaml --out good.yaml": (1, "good.yaml"),
    'split --mix good.yaml --out out --rl {"other":1}': (2, "other"),
    'split --mix good.yaml --out out --rl {"good":5}': (1, "5 pairs are to be drawn"),
    'split --mix good.yaml --out out --rl {"good":1} --scores rows/good.jsonl': (1, "good.jsonl"),
    f"eval --benchmark nothing --out out {TINY}": (2, "nothing"),
    f"eval --benchmark uvrb --root gone --out out {TINY}": (2, "gone"),
    "compare data out": (1, "no finished evaluation"),
    "compare data": (2, "second"),
    "boundary --out out --difficulty embedrl.data.world.WorldDifficulty --success gone": (1, "--success gone"),
    "boundary --out out --difficulty embedrl.data.world.WorldDifficulty": (2, "--success"),
    "data import gone --out out": (1, "gone"),
    "data import good.yaml --out out": (1, "good.yaml"),
    "init gone": (2, "gone"),
    "index build data --out out": (2, "--embedder"),
    "index add gone data": (1, "gone"),
    "index stats gone": (1, "gone"),
    "index compact gone": (1, "gone"),
    "index delete gone --where x": (1, "gone"),
    "index verify gone": (1, "gone"),
    "search gone --text x": (1, "gone"),
    "search gone": (2, "--text"),
    "serve gone": (1, "gone"),
    "serve gone --host 0.0.0.0": (2, "--host 0.0.0.0"),
    "answer gone.lance": (2, "--question"),
    "answer gone.lance --question x": (2, "--vlm"),
    "answer gone.lance --question x --out data --vlm embedrl.construction.LocalVLM --vlm.path embedrl:tiny": (
        2,
        "--out",
    ),
    "data pages --root data": (1, "holds no local copy"),
    "data stats --mix good.yaml --limit 0": (2, "--limit 0"),
    "data stats --mix good.yaml --out x.txt": (2, "x.txt"),
    "data world --seed x": (2, "--seed"),
    "data": (0, ""),
    "completion tcsh": (2, "tcsh"),
}


def test_every_command_has_a_failing_call():
    assert not [name for name in COMMANDS if not any(call.startswith(name) for call in CALLS)]


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_exit_codes(tmp_path, monkeypatch, capsys, call):
    monkeypatch.chdir(tmp_path)
    for folder in ("rows", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data/file").touch()
    (tmp_path / "rows/good.jsonl").write_text(ROW)
    (tmp_path / "rows/broken.jsonl").write_text(json.dumps({"id": 1}) + "\n")
    for name, path in {
        "good": "rows/good.jsonl",
        "broken_rows": "rows/broken.jsonl",
        "gone_rows": "gone.jsonl",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(MIX % path)
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "empty.yaml").touch()
    code, named = CALLS[call]
    assert main(call.split()) == code
    told = capsys.readouterr().err.splitlines()
    errors = [line for line in told if line.startswith("embedrl: error: ")]
    assert len(errors) == (code > 0), told
    assert "Traceback" not in "".join(told)
    assert named in "".join(errors)

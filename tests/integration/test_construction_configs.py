"""The shipped YAML of construction: what it says is the paper's tables, and it parses."""

from pathlib import Path

import pytest
import yaml

from embedrl.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
FEW_CLASSES = {"HatefulMemes", "N24News", "VOC2007"}


def rows(path):
    found = yaml.safe_load((CONFIGS / path).read_text())
    return {row["source"]["init_args"]["dataset"]: row for row in found}


def test_the_embedders_mix_is_the_raw_one_without_the_sets_of_few_classes():
    raw, mix = rows("parts/raw/embed_rl.yaml"), rows("parts/mix/embed_rl_2b.yaml")
    assert {name for name, row in raw.items() if not row["weight"]} == FEW_CLASSES
    assert {name: row["weight"] for name, row in raw.items() if row["weight"]} == {
        name: row["weight"] for name, row in mix.items()
    }
    assert len(mix) == 22
    text = (CONFIGS / "parts/raw/embed_rl.yaml").read_text()
    counts = [line.split("# ")[1].split(" of ") for line in text.splitlines() if "source:" in line]
    kept, initial = (sum(int(pair[i].replace(",", "")) for pair in counts) for i in (0, 1))
    assert (len(counts), kept, initial) == (25, 1_683_111, 2_023_882)
    assert all(f"{number:,}" in text for number in (kept, initial))
    assert f"{100 * kept / initial:.2f} %" in text


def test_the_rl_mix_is_what_split_draws():
    drawn = yaml.safe_load((CONFIGS / "construction/split.yaml").read_text())["rl"]
    mix = rows("parts/mix/egrl_19k.yaml")
    assert list(drawn) == list(mix)
    assert (len(drawn), sum(drawn.values())) == (13, 19_000)
    assert set(drawn) <= set(rows("parts/raw/embed_rl.yaml"))
    for name, row in mix.items():
        assert row["source"]["init_args"]["path"].endswith(f"}}/rl/{name}.jsonl")
    text = (CONFIGS / "parts/mix/egrl_19k.yaml").read_text()
    sizes = [int(line.split("# ")[1].split()[0].replace(",", "")) for line in text.splitlines() if "source:" in line]
    assert sizes == list(drawn.values())


@pytest.mark.parametrize("path", sorted((CONFIGS / "construction").glob("*.yaml")), ids=lambda path: path.name)
def test_a_recipe_parses(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEDRL_DATA", str(tmp_path))
    mix = yaml.safe_load(path.read_text()).get("mix", "runs/mix.yaml")
    if not mix.startswith(".."):  # what the step before writes
        written = tmp_path / mix.replace("${oc.env:EMBEDRL_DATA,data}/", "")
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text((CONFIGS / "parts/raw/world.yaml").read_text())
    flags = ["--mix", "runs/mix.yaml"] if mix.startswith("runs") else []
    with pytest.raises(SystemExit) as done:
        main([path.stem.removeprefix("world_"), "--config", str(path), *flags, "--print_config"])
    assert done.value.code == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["mix"][0]["source"]["class_path"].startswith("embedrl.data.")
    assert found["out"]

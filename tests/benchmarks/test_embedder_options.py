"""The tables of the Embedder's recipe and options, at their smallest setting."""

import json

import pytest


@pytest.mark.slow
def test_world_embedder(benchmark, tmp_path, monkeypatch):
    module = benchmark("world_embedder")
    monkeypatch.setattr(module, "ROWS", dict([*module.ROWS.items()][:1]))
    short = ["--trainer.max_steps=1", "--data.init_args.batch_size=4", "--data.init_args.sub_batch_size=2"]
    module.main(str(tmp_path), seeds=1, size=2, extra=short)
    rows = (tmp_path / "table.md").read_text().splitlines()[2:]
    assert len(rows) == 3  # a training, chance, sizes
    assert rows[0].count(" ± ") == 11


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_embedder_options(benchmark, tmp_path, monkeypatch):
    module = benchmark("embedder_options")
    kept = (module.PLAIN, "2 mined negatives, distillation")
    monkeypatch.setattr(module, "OPTIONS", {name: module.OPTIONS[name] for name in kept})
    monkeypatch.setattr(module, "STORED", {module.PLAIN: ["float32", "first 16", "binary"]})
    module.main(tmp_path, seeds=2, smallest=True)
    options, forms = (tmp_path / "embedder_options.md").read_text().split("\n\n")
    assert [row.split("|")[1].strip() for row in options.splitlines()[2:]] == [*kept, module.MERGED]
    assert forms.splitlines()[-1].count("±") == 3
    recorded = json.loads((tmp_path / "embedder_options.json").read_text())
    assert [len(seeds) for seeds in recorded["scores"].values()] == [2, 2, 1]  # two seeds, one pair of them
    with pytest.raises(SystemExit, match="runs of another setting"):
        module.main(tmp_path)

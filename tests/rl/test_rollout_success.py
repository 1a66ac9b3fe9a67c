"""How often rollouts find their target: counted rightly, written, resumed, and read by `embedrl split --scores`."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from processes import finish, launch
from reward_helpers import coarse, step_of, unit

import embedrl
from embedrl.cli import main
from embedrl.construction.split import read_scores
from embedrl.data.mix import MixRow
from embedrl.data.world import WorldSource
from embedrl.errors import ConfigError
from embedrl.rl.module import EGRLModule
from embedrl.rl.rollout_success import RolloutSuccess, attempts_of, share, steps
from embedrl.types import Role

CONFIGS = Path(__file__).parents[2] / "configs"


def successes(step):
    return {pair: share(attempts) for pair, attempts in attempts_of(step).items()}


def one_by_one(step):
    """The definition, rollout by rollout."""
    answers = {(pair.query.key, pair.target.key) for pair in step.pairs}
    won, all_ = Counter(), Counter()
    for o in (r for r in step.rollouts if r.role is Role.QUERY and r.id in step.mine):
        near = defaultdict(list)
        for p in (r for r in step.rollouts if r.role is Role.TARGET):
            known = (step.pairs[o.pair].query.key, step.pairs[p.pair].target.key) in answers
            kind = "right" if p.pair == o.pair else "masked" if known else "wrong"
            near[kind].append(float(step.vectors[o.id].double() @ step.vectors[p.id].double()))
        if near["right"] and near["wrong"]:
            all_[o.pair] += 1
            won[o.pair] += max(near["right"]) > max(near["wrong"]) + 1e-6
    return {pair: won[pair] / count for pair, count in all_.items()}


@pytest.mark.parametrize("vectors", [unit, coarse])
@pytest.mark.parametrize("targets", ["abcd", "abab", "aabc"])
@pytest.mark.parametrize("seed", range(3))
def test_a_rollout_succeeds_if_the_nearest_target_is_its_own(vectors, targets, seed):
    step = step_of("wxyz" if seed else "wwyz", targets, groups=4, vectors=vectors, seed=seed, missing=3)
    found = successes(step)
    assert found == one_by_one(step)
    assert found


def test_ties_count_against_and_nothing_to_compete_with_has_no_score():
    tied = step_of("xy", "ab", groups=2, vectors=lambda rows, seed: unit(1).repeat(rows, 1))
    assert successes(tied) == {0: 0.0, 1: 0.0}
    assert successes(step_of("xy", "aa", groups=2)) == {}
    assert successes(step_of("x", "a", groups=2)) == {}


def test_a_process_counts_its_own():
    step = step_of("xyz", "abc", groups=2)
    mine = {r.id for r in step.rollouts if r.pair == 1}
    assert successes(step_of("xyz", "abc", groups=2, mine=mine)) == {1: successes(step)[1]}


@given(st.integers(1, 200), st.integers(1, 6), st.integers(1, 4))
def test_every_row_competes_once_beside_its_block(rows, blocks, block_size):
    size = max(2, blocks * block_size)
    found = steps(rows, size - size % block_size or block_size, block_size)
    assert sorted(row for step in found for row in step) == list(range(rows))
    for step in found:
        assert all(row + 1 in step for row in step if (row + 1) % block_size and row + 1 < rows)


def test_a_sorted_data_set_does_not_compete_with_itself():
    assert [len({row // 10 for row in step}) for step in steps(100, 10, 1)] == [10] * 10


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"block_size": 0}, {"batch_size": 6, "block_size": 4}])
def test_wrong_options(options, tmp_path):
    with pytest.raises(ConfigError, match="RolloutSuccess: batch_size"):
        RolloutSuccess([MixRow(WorldSource("vqa", size=4))], tmp_path / "s.jsonl", **options)


def test_it_belongs_to_validate_and_mixes_no_scores(tmp_path):
    callback = RolloutSuccess([MixRow(WorldSource("vqa", size=4))], tmp_path / "s.jsonl")
    module = EGRLModule.__new__(EGRLModule)
    callback.setup(None, module, "validate")
    for wrong, stage in [(module, "fit"), (object(), "validate")]:
        with pytest.raises(ConfigError, match="belongs to `embedrl validate`"):
            callback.setup(None, wrong, stage)
    with pytest.raises(ConfigError, match="nothing was validated"):
        callback.teardown(None, module, "validate")
    (tmp_path / "s.jsonl").write_text("")  # perhaps another model's
    with pytest.raises(ConfigError, match=r"s\.jsonl: is there already"):
        callback.setup(None, module, "validate")
    other = RolloutSuccess(callback.mix, tmp_path / "new.jsonl", rollouts=tmp_path / "s.jsonl")
    with pytest.raises(ConfigError, match=r"RolloutSuccess.rollouts .*s\.jsonl: is there already"):
        other.setup(None, module, "validate")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The quickstart's EG-RL on random tiny models, over twelve pairs of two families."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEDRL_DATA", str(tmp_path))
    (tmp_path / "kept").mkdir()
    world = "embedrl.data.world.WorldSource"
    mix = [
        {"source": {"class_path": world, "init_args": {"family": family, "size": 6, "teacher": "perfect"}}}
        for family in ("vqa", "t2i")
    ]
    (tmp_path / "kept/mix.yaml").write_text(yaml.safe_dump(mix))
    tiny = {"class_path": "embedrl.QwenVLBackbone", "init_args": {"path": "embedrl:tiny"}}
    small = {
        "model": {
            "init_args": {
                "generator": {"init_args": {"path": "embedrl:tiny"}}, "embedder": {"init_args": {"backbone": tiny}},
                "group_size": 4, "rollout": {"max_new_tokens": 6}, "max_new_tokens": 6,
            }
        },
        "trainer": {"enable_progress_bar": False},
    }  # fmt: skip
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    files = [CONFIGS / "quickstart/egrl.yaml", CONFIGS / "parts/rollout_success.yaml", tmp_path / "small.yaml"]
    return [word for file in files for word in ("--config", str(file))]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.filterwarnings("ignore")
def test_from_rollouts_to_the_split(recipe, tmp_path, capsys):
    out, written = tmp_path / "kept/success.jsonl", tmp_path / "kept/rollouts.jsonl"
    more = {"trainer": {"callbacks": [callback(tmp_path, rollouts=str(written))]}}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(more))
    assert main(["validate", *recipe, "--config", str(tmp_path / "more.yaml")]) == 0, capsys.readouterr().err
    found = rows(out)
    told = {row["key"]: row for row in rows(written)}
    assert {key: sum(row["successes"]) / 4 for key, row in told.items()} == {
        row["key"]: row["success"] for row in found
    }
    assert all(len(row["tcots"]) == 4 and all(row["tcots"]) for row in told.values())
    sources = {f"world/{family}": WorldSource(family, size=6, teacher="perfect") for family in ("vqa", "t2i")}
    assert all(sources[row["dataset"]][row["row"]].id == row["id"] for row in told.values())
    printed = capsys.readouterr().out
    assert "rollouts that succeed" in printed
    assert Counter(row["dataset"] for row in found) == {"world/vqa": 6, "world/t2i": 6}
    assert {row["rollouts"] for row in found} == {4}
    assert all(row["success"] in (0, 0.25, 0.5, 0.75, 1) and row["among"] == 6 for row in found)
    assert read_scores(out) == {(row["dataset"], row["id"]): row["success"] for row in found}

    whole = out.read_text()
    lines = whole.splitlines(keepends=True)
    out.write_text("".join(lines[:8]) + lines[8][:20])  # killed while writing the second data set
    drawn = written.read_text()
    written.write_text("".join(drawn.splitlines(keepends=True)[:9]))
    overlay = {"trainer": {"callbacks": [callback(tmp_path, resume=True, rollouts=str(written))]}}
    (tmp_path / "resume.yaml").write_text(yaml.safe_dump(overlay))
    assert main(["validate", *recipe, "--config", str(tmp_path / "resume.yaml")]) == 0, capsys.readouterr().err
    assert sorted(set(out.read_text().splitlines())) == sorted(whole.splitlines())
    assert sorted(set(written.read_text().splitlines())) == sorted(drawn.splitlines())
    written.unlink()  # pairs that have scores alone are rolled out again
    assert main(["validate", *recipe, "--config", str(tmp_path / "resume.yaml")]) == 0, capsys.readouterr().err
    assert sorted(written.read_text().splitlines()) == sorted(drawn.splitlines())

    middling = {row["id"] for row in found if row["dataset"] == "world/vqa" and 0.1 <= row["success"] <= 0.9}
    words = ["split", "--mix", str(tmp_path / "kept/mix.yaml"), "--out", str(tmp_path / "split")]
    size = max(1, len(middling))
    assert main([*words, "--rl", json.dumps({"world/vqa": size}), "--scores", str(out)]) == 0
    drawn = {row["id"] for row in rows(tmp_path / "split/rl/world_vqa.jsonl")}
    assert middling <= drawn
    assert len(drawn) == size
    assert 0 < len(middling) < 6, "the draw would be the same without scores: choose another seed"


def with_a_broken_pair(folder):
    """A mix of four pairs with pictures, one of which is no picture."""
    lines = []
    for i, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (40, 40), colour).save(folder / f"{i}.png")
        lines.append({"id": str(i), "query": {"text": f"dot {i}"}, "target": {"images": [f"{i}.png"]}})
    (folder / "2.png").write_bytes(b"no picture")
    (folder / "dots.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"class_path": "embedrl.data.JsonlSource", "init_args": {"path": str(folder / "dots.jsonl")}}
    (folder / "kept/mix.yaml").write_text(yaml.safe_dump([{"source": source}]))


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.filterwarnings("ignore")
def test_a_bad_pair_is_a_matter_of_on_bad(recipe, tmp_path, capsys):
    with_a_broken_pair(tmp_path)
    out = tmp_path / "kept/success.jsonl"
    assert main(["validate", *recipe]) == 1
    assert "2.png" in capsys.readouterr().err
    out.unlink(missing_ok=True)
    skip = ["--data.init_args.on_bad", "skip", "--trainer.default_root_dir", str(tmp_path / "one")]
    assert main(["validate", *recipe, *skip]) == 0, capsys.readouterr().err
    one = rows(out)
    assert [row["id"] for row in one] == ["0", "1", "3"]
    assert {row["among"] for row in one} == {3}
    [named] = [rows(file) for file in (tmp_path / "one").rglob("skipped.jsonl")]
    assert [(bad["id"], bad["cause"]) for bad in named] == [("2", "broken_picture")]
    out.unlink()
    few = ["--data.init_args.max_bad", "0"]
    assert main(["validate", *recipe, *skip, *few]) == 1
    assert "more than data.max_bad 0" in capsys.readouterr().err
    out.unlink(missing_ok=True)
    skip[-1] = str(tmp_path / "two")
    words = ["validate", *recipe, *skip, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    finish(launch(Path(embedrl.__file__).parent / "__main__.py", *words, log=tmp_path), tmp_path)
    assert rows(out) == one
    assert [len(rows(file)) for file in (tmp_path / "two").rglob("skipped.jsonl")] == [1]


def callback(folder, **options):
    files = {"mix": str(folder / "kept/mix.yaml"), "out": str(folder / "kept/success.jsonl")}
    return {"class_path": "embedrl.rl.RolloutSuccess", "init_args": {**files, **options}}


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.filterwarnings("ignore")
def test_two_processes_score_as_one(recipe, tmp_path, capsys):
    out = tmp_path / "kept/success.jsonl"
    assert main(["validate", *recipe]) == 0, capsys.readouterr().err
    one = read_scores(out)
    out.unlink()
    words = ["validate", *recipe, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    finish(launch(Path(embedrl.__file__).parent / "__main__.py", *words, log=tmp_path), tmp_path)
    assert read_scores(out) == one

"""The recipes for GPUs: planned from their YAML alone, and trained for two steps, shrunk, on two processes."""

from functools import cache
from pathlib import Path

import pytest
import yaml
from cli_process import logged
from processes import finish, launch
from recipes import CONFIGS, printed

import embedrl
from embedrl.cli import main
from embedrl.commands.fit import pick_overlays
from embedrl.commands.plan import plan, read
from embedrl.errors import ConfigError
from embedrl.planning.rows import Assumptions
from embedrl.planning.trainings import make_plan

SHRINK, SMALL_GPU, RELEASED = (
    CONFIGS / "parts" / name for name in ("shrink.yaml", "gpu_24gb.yaml", "released_code.yaml")
)
QWEN = ["embedder/qwen3_vl_2b", "embedder/qwen3_vl_4b", "reasoner/qwen3_vl_8b", "egrl/qwen3_vl_8b"]
OPEN_CLIP = ["embedder/open_clip_vit_b_32", "embedder/open_clip_vit_l_14"]
UNIFIED = [f"unified/{recipe}_qwen3_vl_2b" for recipe in ("ume_r1", "ume_r1_rl", "rge")]
ALIKE = [recipe.replace("2b", "8b") for recipe in UNIFIED]
"""These differ from the others in the size of the model and of micro-batches alone."""
FIRST = ["embedder/qwen3_vl_2b", "reasoner/qwen3_vl_8b", "egrl/qwen3_vl_8b"]
"""One recipe of each kind."""
GIB = 2**30


def configs(recipe, *overlays):
    return [word for path in (CONFIGS / f"{recipe}.yaml", *overlays) for word in ("--config", str(path))]


@cache
def planned_with(recipe, *overlays):
    """What `embedrl plan` makes of a recipe, and what it assumed; several tests look at each."""
    return plan(configs(recipe, *overlays))


def settings(recipe, *overlays):
    return planned_with(recipe, *overlays)[0]


def test_the_released_codes_configuration(capsys):
    config = printed(capsys, *configs("egrl/qwen3_vl_8b", RELEASED))
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["optimizer"]["init_args"]["weight_decay"] == 0.0
    assert model["loss"]["init_args"]["aggregation"] == "token_mean"
    assert (model["group_size"], data["batch_size"], model["loss"]["init_args"]["kl_coefficient"]) == (4, 32, 0.01)
    assert [row["weight"] for row in model["rewards"]] == [0.05, 0.2, 0.4]
    assert model["rewards"][1]["reward"]["init_args"]["form"] == "margin"


def test_every_recipe_for_gpus_is_named_here():
    folders = ("embedder", "reasoner", "egrl", "unified")
    found = {
        str(p.relative_to(CONFIGS).with_suffix("")) for folder in folders for p in (CONFIGS / folder).glob("*.yaml")
    }
    assert found - {"embedder/tux_open_clip", "embedder/tux_tiny"} == {*QWEN, *OPEN_CLIP, *UNIFIED, *ALIKE}


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("recipe", [*FIRST, OPEN_CLIP[0], *UNIFIED[1:]])  # shrunk, the others are the same
def test_a_recipe_trains_two_steps_shrunk_under_fsdp2(recipe, tmp_path):
    root, entry = tmp_path / "runs", Path(embedrl.__file__).parent / "__main__.py"
    shrink = SHRINK.with_suffix("") / "unified_rl.yaml" if recipe in UNIFIED and "_rl_" in recipe else SHRINK
    words = [*configs(recipe, shrink), "--trainer.default_root_dir", root]
    finish(launch(entry, "fit", *words, log=tmp_path), tmp_path)
    run = root / "version_0"
    assert sorted(
        logged(run, "reward/total/mean" if recipe.startswith("egrl") or "_rl_" in recipe else "train/loss")
    ) == [0, 1]
    assert (run / "checkpoints/last.ckpt").is_file()
    config = yaml.safe_load((run / "config.yaml").read_text())
    strategy = config["trainer"]["strategy"]
    assert strategy["class_path"] == "embedrl.distributed.FSDP2Strategy"
    assert strategy["init_args"]["param_dtype"] == "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", FIRST)
def test_a_recipe_trains_two_steps_as_on_one_small_gpu(recipe, tmp_path, capsys):
    """In one process, with frozen weights in bfloat16 and autocast."""
    words = [*configs(recipe, SMALL_GPU, SHRINK), "--trainer.devices", "1", "--trainer.strategy", "auto"]
    if recipe.startswith("embedder"):
        words += ["--model.init_args.backbone.init_args.dtype", "bfloat16"]
    if recipe.startswith("egrl"):
        words += ["--model.reference", "null"]  # as in the overlay of the small GPU
    words += ["--trainer.precision", "bf16-mixed", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", *words]) == 0, capsys.readouterr().err
    run = tmp_path / "version_0"
    assert sorted(
        logged(run, "reward/total/mean" if recipe.startswith("egrl") or "_rl_" in recipe else "train/loss")
    ) == [0, 1]


@pytest.mark.parametrize("recipe", [*(pytest.param(name, marks=pytest.mark.slow) for name in QWEN[:-1]), QWEN[-1]])
def test_a_recipe_is_planned_at_full_size(recipe):
    planned = settings(recipe)
    total = {"2b": 2127532032, "4b": 4437815808, "8b": 8767123696}[recipe[-2:]]
    every, trained = next(iter(planned.models.values()))
    # LoRA: what it adds is all that is trained; else the vision tower alone is frozen.
    assert every == total + trained if "egrl" not in recipe else every == total > trained > 0.9 * total
    assert planned.devices == 8
    assert max(planned.peaks.values()) < 76 * GIB  # an 80-GB device
    assert all(value > 0 for value in (*planned.tokens.values(), *planned.flops.values()))
    assert any("shipped table" in note for note in planned.notes) or not planned.notes


@pytest.mark.slow
@pytest.mark.parametrize("recipe", QWEN)
def test_a_recipe_fits_one_gpu_of_24_gb(recipe):
    planned = settings(recipe, SMALL_GPU)
    assert planned.devices == 1
    assert max(planned.peaks.values()) < 22 * GIB


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [*FIRST, OPEN_CLIP[0]])
def test_a_shrunk_recipe_is_planned(recipe):
    planned = settings(recipe, SHRINK)
    assert planned.devices == 2
    assert all(every < 5e6 for every, _ in planned.models.values())


def documented():
    """The rows of the table of estimates."""
    text = (CONFIGS.parent / "docs/how_to/recipes.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    return {row[0]: row[1:] for row in rows if len(row) == 8}


@pytest.mark.slow
@pytest.mark.parametrize("name", documented())
def test_the_documented_estimates_are_what_plan_says(name):
    recipe, small = name.split("`")[1:]
    planned, assume = planned_with(recipe, *([SMALL_GPU] if small else []))
    every, trained = next(iter(planned.models.values()))
    phase, peak = max(planned.peaks.items(), key=lambda item: item[1])
    flops = planned.total_flops
    assert documented()[name] == [
        str(planned.devices),
        f"{every:,}",
        f"{trained:,}",
        f"{peak / GIB:.1f} {phase}",
        f"{sum(planned.tokens.values()):,.0f}",
        f"{flops / 1e15:.1f}",
        f"{flops / planned.devices / (assume.tflops * 1e12):.1f}",
    ]


def test_plan_prints_tables(capsys):
    words = ["plan", "--config", str(CONFIGS / "quickstart/embedder.yaml"), "--assume.tcot", "50"]
    assert main(words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    for line in ("1,559,776", "peak: training", "PFLOP", "50 a T-CoT", "trainer.devices is auto"):
        assert line in out


def test_what_plan_says_follows_the_options():
    module, settings = read(["--config", str(CONFIGS / "quickstart/embedder.yaml")])
    data = settings.data.init_args

    def planned():
        return make_plan(module, data, settings.trainer, Assumptions())

    base, data.batch_size = planned(), 2 * data.batch_size
    more, module.gradient_cache = planned(), True
    assert more.tokens["sides"] == 2 * base.tokens["sides"]
    assert more.memory["weights"] == base.memory["weights"]
    assert more.memory["activations kept"] == 2 * base.memory["activations kept"]  # all graphs are kept
    cached, data.render.tcot = planned(), "none"
    assert cached.memory["activations kept"] < base.memory["activations kept"]
    assert cached.extra["first pass of gradient caching"] == more.flops["forward"]
    assert planned().tokens["sides"] < cached.tokens["sides"]
    # The second pass takes over what a frozen tower made.
    module.backbone.train_vision = False
    frozen = planned()
    assert 0 < frozen.extra["first pass of gradient caching"] < frozen.flops["forward"]


def test_the_reasoner_is_planned_with_the_graphs_of_one_micro_batch():
    module, settings = read(["--config", str(CONFIGS / "quickstart/reasoner.yaml")])
    data = settings.data.init_args

    def planned():
        return make_plan(module, data, settings.trainer, Assumptions())

    base, data.batch_size = planned(), 2 * data.batch_size
    more, data.micro_batch_size = planned(), 2 * data.micro_batch_size
    assert more.memory == base.memory
    assert more.tokens["lessons"] == 2 * base.tokens["lessons"]
    wider = planned().memory
    assert wider["activations kept"] == 2 * base.memory["activations kept"]
    assert wider["logits"] == 2 * base.memory["logits"]


def test_an_overlay_for_each_module(tmp_path, capsys):
    recipe = CONFIGS / "egrl/qwen3_vl_8b.yaml"
    words = ["--config", str(recipe), f"--config={SHRINK}", "--trainer.max_steps", "1"]
    assert pick_overlays(words) == [*words[:2], f"--config={CONFIGS / 'parts/shrink/egrl.yaml'}", *words[3:]]
    with pytest.raises(ConfigError, match="comes before the recipe"):
        pick_overlays(["--config", str(SHRINK), "--config", str(recipe)])
    (tmp_path / "other.yaml").write_text("ReasonerModule: other/reasoner.yaml\n")
    with pytest.raises(ConfigError, match="holds overlays for ReasonerModule, and has none for EGRLModule"):
        pick_overlays(["--config", str(recipe), "--config", str(tmp_path / "other.yaml")])
    config = printed(capsys, "--config", CONFIGS / "quickstart/reasoner.yaml", "--config", SHRINK)
    assert config["model"]["init_args"]["generator"]["init_args"]["path"] == "embedrl:tiny"

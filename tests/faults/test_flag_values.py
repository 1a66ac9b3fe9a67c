"""Wrong values of options are one line each; nothing else has happened then."""

import json

import pytest
from tiny_runs import fit, write

from embedrl.cli import main
from embedrl.commands.parsing import with_class_paths
from embedrl.commands.refusals import refusal
from embedrl.data.render import RenderOptions
from embedrl.errors import ConfigError
from embedrl.models.lora import LoRAOptions
from embedrl.training.run_dir import CheckpointOptions
from embedrl.training.seeding import choose_seed
from embedrl.training.trainer_checks import check_precision, check_schedule
from embedrl.utils.ranges import check_least
from embedrl.utils.run_seed import run_seed
from embedrl.utils.yaml_checks import check_yaml, check_yaml_files


@pytest.fixture(autouse=True)
def own_seed(monkeypatch):
    """`seed_everything` leaves the run's seed in the environment."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


REFUSED = {
    "64": lambda: check_precision("64"),
    "16-mixed": lambda: check_precision("16-mixed"),
    "transformer-engine": lambda: check_precision("transformer-engine"),
    "did you mean cosine?": lambda: check_schedule("cosin"),
    "give one of linear": lambda: check_schedule("reduce_lr_on_plateau"),
    "lora.dropout is 1.5": lambda: LoRAOptions(dropout=1.5),
    "lora.dropout is nan": lambda: LoRAOptions(dropout=float("nan")),
    "lora.alpha is 0": lambda: LoRAOptions(alpha=0),
    "checkpoint.every_n_steps is 0": lambda: CheckpointOptions(every_n_steps=0),
    "data.seed -1": lambda: run_seed(-1, "data.seed"),
    "a is nan": lambda: check_least(0, {"b": None, "a": float("nan")}),
    "--seed_everything -1": lambda: choose_seed(-1),
    "--seed_everything false": lambda: choose_seed(False),
    f"--seed_everything {2**32}": lambda: choose_seed(2**32),
}


@pytest.mark.parametrize("told", REFUSED)
def test_a_wrong_value_is_refused(told):
    with pytest.raises(ConfigError) as refused:
        REFUSED[told]()
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("precision", [None, 32, "32", "32-true", "bf16", "bf16-mixed"])
def test_what_trainings_compute_in(precision):
    check_precision(precision)


def test_the_seed_of_a_run(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert [run_seed(None, "x"), run_seed(0, "x"), run_seed(3, "x")] == [7, 0, 3]
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert run_seed(None, "x") == 0
    assert choose_seed(5) == 5
    assert 0 <= choose_seed(True) < 2**32


def test_processes_of_others_cannot_agree_on_a_drawn_seed(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="give a number"):
        choose_seed(True)


@pytest.mark.parametrize(("given", "cues"), [(True, "on"), (False, "off"), ("on", "on"), ("printed", "printed")])
def test_yaml_reads_on_and_off_as_truth_values(given, cues):
    assert RenderOptions(cues=given).cues == cues


TWICE = {
    "at the top": ("trainer: {a: 1}\nmodel: 1\ntrainer: {b: 2}\n", "trainer", "1 and 3"),
    "below": ("model:\n  a: 1\n  b: 2\n  a: 3\n", "a", "2 and 4"),
    "in a list": ("- source: 1\n  weight: 2\n- weight: 3\n  source: 1\n  weight: 4\n", "weight", "3 and 5"),
    "quoted": ("a: 1\n'a': 2\n", "a", "1 and 2"),
    "in one line": ("{a: {b: 1, b: 2}}\n", "b", "1 and 1"),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("case", TWICE)
def test_a_key_given_twice_is_refused(tmp_path, case, nested):
    text, key, lines = TWICE[case]
    (tmp_path / "part.yaml").write_text(text)
    (tmp_path / "outer.yaml").write_text("data:\n  mix: part.yaml\n")
    with pytest.raises(ConfigError, match=rf"part.yaml: the key {key} is there twice, in lines {lines}:"):
        check_yaml(tmp_path / ("outer.yaml" if nested else "part.yaml"))


def test_after_config_any_file_is_checked(tmp_path):
    path = tmp_path / "recipe"
    path.write_text("a: 1\na: 2\n")
    check_yaml_files([str(path)])
    for words in (["--config", str(path)], [f"--config={path}"]):
        with pytest.raises(ConfigError, match="twice"):
            check_yaml_files(words)


def test_keys_that_only_look_alike_pass(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("1: a\n'1': b\nx: &x {a: 1}\ny: {<<: *x, a: 2}\nz:\n  - {a: 1}\n  - {a: 1}\n")
    check_yaml(path)


SPELLED = {
    "apart": (["--trainer.strategy", "a.B"], ["--trainer.strategy", '{"class_path": "a.B"}']),
    "in one word": (["--trainer.strategy=a.B"], ['--trainer.strategy={"class_path": "a.B"}']),
    "by its name": (
        ["--trainer.strategy", "FSDP2Strategy"],
        ["--trainer.strategy", '{"class_path": "embedrl.distributed.FSDP2Strategy"}'],
    ),
    "a name of Lightning's": (["--trainer.strategy", "ddp_spawn"], ["--trainer.strategy", "ddp_spawn"]),
    "a profiler": (["--trainer.profiler", "p.P"], ["--trainer.profiler", '{"class_path": "p.P"}']),
}


@pytest.mark.parametrize("case", SPELLED)
def test_a_class_where_names_are_taken_too(case):
    words, expected = SPELLED[case]
    assert with_class_paths(words) == expected


def raised(function) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever it is)
        function()
    return caught.value


def test_what_a_library_refuses_is_one_line():
    missing = ModuleNotFoundError("No module named 'wandb'")
    assert str(refusal(missing)) == "No module named 'wandb': install it, or choose another class"
    assert str(refusal(raised(lambda: json.loads("{")))).startswith("Expecting property name")
    assert refusal(raised(lambda: check_least(1, {"a": 0}))) is None  # ours is a line already
    assert refusal(raised(lambda: check_least(1, {"a": "text"}))) is None  # a bug of ours keeps its traceback


PARSED = {
    "Embedder": {
        "--model.optimizer.lrr 1": "--model.optimizer.lrr: no such option; did you mean --model.optimizer.lr?",
        "--trainer.precision bf16-true": "--trainer.precision bf16-true: the type of the weights is an option",
    }
}


@pytest.mark.parametrize("words", PARSED["Embedder"])
def test_the_line_names_the_option(tmp_path, words):
    run = fit("Embedder", tmp_path, *words.split())
    assert run.code == 2
    assert PARSED["Embedder"][words] in run.line
    assert not run.folder.exists()


WRONG = {
    "Embedder": {
        "--model.optimizer.lr -1": "model.optimizer: Invalid learning rate: -1.0",
        "--model.optimizer.lr abc": "--model.optimizer.lr: Expected a float, got abc",
        "--model.warmup_steps -1": "model.warmup_steps is -1: give 0 or more",
        "--data.batch_size 0": "data.batch_size is 0: give 1 or more",
        "--data.max_negatives -1": "data.max_negatives is -1: give 0 or more",
        "--data.num_workers -1": "data.num_workers is -1: give 0 or more",
        "--trainer.strategy no.Such": "--trainer.strategy: no class of that name: no.Such",
        "--trainer.strategy ddpp": "You selected an invalid strategy name",
        "--trainer.logger WandbLogger": "install it, or choose another class",
        "--trainer.accumulate_grad_batches 0": "--trainer.accumulate_grad_batches is 0: give 1 or more",
        "--trainer.num_nodes 0": "--trainer.num_nodes is 0: give 1 or more",
        "--trainer.devices -1": "should be an int > 0",
        "--model.loss NoSuch": "--model.loss: no class of that name: NoSuch",
        "--checkpoint.mode maxx": "--checkpoint.mode: Expected",
        "--trainer.default_root_dir /proc/nowhere": "--trainer.default_root_dir /proc/nowhere: cannot be written",
    },
    "Reasoner": {
        "--model.schedule cosin": "--model.schedule cosin: no such schedule; did you mean cosine?",
        "--model.max_new_tokens 0": "model.max_new_tokens is 0: give 1 or more",
        "--data.generate_batch_size 0": "data.generate_batch_size is 0: give 1 or more",
        "--data.batch_size 0": "data.batch_size is 0: give 1 or more",
    },
    "EG-RL": {
        "--model.schedule cosin": "--model.schedule cosin: no such schedule; did you mean cosine?",
        "--model.inner_epochs 0": "model.inner_epochs is 0: give 1 or more",
        "--model.gradient_clip_val -1": "model.gradient_clip_val is -1.0: give 0 or more",
        "--data.block_size 0": "data.block_size is 0: give 1 or more",
        "--model.rollout.top_p 1.5": "top_p is 1.5: give more than 0, at most 1",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(("training", "words"), [(name, words) for name, rows in WRONG.items() for words in rows])
def test_a_wrong_value_on_the_command_line_is_one_line(tmp_path, training, words):
    run = fit(training, tmp_path, *words.split())
    assert run.code == 2, run.err
    assert WRONG[training][words] in run.line
    assert run.err.count("error: ") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "words"),
    [
        ("Reasoner", "--model.generator.lora null"),
        ("Reasoner", "--model.init_args.generator.init_args.lora=null"),
        ("EG-RL", "--model.loss.importance_cap null"),
        ("Embedder", "--data.render.cues off"),
    ],
)
def test_null_and_off_mean_on_the_command_line_what_they_mean_in_yaml(tmp_path, training, words):
    run = fit(training, tmp_path, *words.split())
    assert run.code == 0, run.err
    if "lora" in words:
        assert "lora: null" in (run.folder / "version_0/config.yaml").read_text()


def test_two_blocks_of_the_trainer_are_one_line(tmp_path, capsys):
    path = write("Embedder", tmp_path)
    path.write_text(path.read_text() + "trainer:\n  max_steps: 3\n")
    assert main(["fit", "--config", str(path)]) == 2
    assert "the key trainer is there twice, in lines 1 and " in capsys.readouterr().err

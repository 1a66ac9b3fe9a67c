"""The conflict of gradients against two separate backward passes, and a training that knows nothing of it."""

from pathlib import Path

import pytest
import torch
import yaml
from cli_process import logged
from processes import finish, launch, weights
from unified_runs import BACKBONE, chats, info_nce, reasoning, recipe

import embedrl
from embedrl.cli import main
from embedrl.distributed.gradient_sync import GradientSync
from embedrl.models.lora import LoRAOptions
from embedrl.models.unified.layout import UnifiedLayout
from embedrl.models.unified.model import QwenVLUnified
from embedrl.training.gradient_cache import GradientCache
from embedrl.training.gradient_conflict import gradient_conflict, layers_of


def built(lora=None):
    model = QwenVLUnified(
        "embedrl:tiny", UnifiedLayout(request="evidence :"), lora=lora, train_vision=lora is None, max_length=400
    )
    model.build()
    return model


def test_layers_hold_every_trained_parameter_once():
    for model in (built(), built(LoRAOptions(r=2, alpha=4, dropout=0.0, scope="language"))):
        groups = layers_of(model)
        held = [id(p) for group in groups.values() for p in group]
        assert len(held) == len(set(held))
        assert set(held) == {id(p) for p in model.parameters() if p.requires_grad}
        layers = {f"layer_{i}" for i in range(len(model.core.get_decoder().layers))}
        assert layers <= set(groups)
        assert set(groups) - layers == (set() if model.lora else {"embedding", "vision", "norm"})


@pytest.mark.parametrize("recompute", [True, False])
def test_cosines_are_those_of_two_backward_passes(recompute):
    """Micro-batches of two rows, with dropout; a plain loss of two parts on the vectors and on the likelihood."""
    model = built(LoRAOptions(r=2, alpha=4, dropout=0.3, scope="language"))
    model.train()
    preprocessor, six = model.preprocessor().for_training(), chats()
    micro_batches = [preprocessor(six[i : i + 2]) for i in range(0, 6, 2)]
    groups = layers_of(model)
    parameters = [p for group in groups.values() for p in group]

    def learn(inputs):
        return torch.nn.functional.pad(model.outputs(inputs), (0, 1))  # as the module: a column of tokens behind

    def losses(outputs):
        disc, gen = outputs[:, :-2].chunk(2, dim=1)
        contrast = sum(torch.nn.functional.cross_entropy(20 * v[:3] @ v[3:].T, torch.arange(3)) for v in (disc, gen))
        return contrast, outputs[:, -2].sum() / 50

    torch.manual_seed(3)
    outputs = torch.cat([learn(inputs) for inputs in micro_batches])
    first, second = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses(outputs))

    torch.manual_seed(3)
    cache = GradientCache(learn, micro_batches, torch.device("cpu"), recompute=recompute)
    vectors = cache.forward()
    sum(losses(vectors)).backward()
    cache.backward(vectors.grad)
    held, state = [p.grad for p in parameters], torch.get_rng_state()
    before = [grad.clone() for grad in held]
    found = gradient_conflict(cache, vectors.grad, groups, GradientSync(None))

    at = 0
    for layer, group in groups.items():
        one, other = (torch.cat([g.flatten() for g in side[at : at + len(group)]]) for side in (first, second))
        at += len(group)
        expected = torch.nn.functional.cosine_similarity(one, other, dim=0)
        assert float(found[layer]) == pytest.approx(float(expected), abs=1e-5), layer
        assert abs(float(expected)) > 1e-4, "nothing was compared"
    whole = [torch.cat([g.flatten() for g in side]) for side in (first, second)]
    assert float(found["all"]) == pytest.approx(float(torch.nn.functional.cosine_similarity(*whole, dim=0)), abs=1e-5)
    assert float(found["mean"]) == pytest.approx(sum(float(found[layer]) for layer in groups) / len(groups), abs=1e-6)
    assert all(p.grad is grad for p, grad in zip(parameters, held, strict=True))
    assert all(torch.equal(*pair) for pair in zip(held, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def fit(path: Path) -> Path:
    assert main(["fit", "--config", str(path)]) == 0
    return Path(yaml.safe_load(path.read_text())["trainer"]["default_root_dir"]) / "version_0"


@pytest.mark.slow
def test_a_run_that_measures_trains_the_same_bit_by_bit(tmp_path):
    """With dropout; logged at the steps of the other figures, and at those that were measured alone."""
    trainer = {"max_steps": 5, "limit_val_batches": 0}
    plain = fit(recipe(tmp_path / "plain", trainer))
    measured = fit(recipe(tmp_path / "measured", trainer, {"gradient_conflict_every": 2}))
    ours, theirs = (weights(run / "checkpoints/last.ckpt") for run in (measured, plain))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    for curve in ("train/loss", "train/grad_norm"):
        assert logged(measured, curve) == logged(plain, curve)
        assert sorted(logged(measured, curve)) == list(range(5))
    for layer in ("layer_0", "mean", "all"):
        values = logged(measured, f"train/conflict/{layer}")
        assert sorted(values) == [1, 3]
        assert all(-1 <= value <= 1 and value != 0 for [value] in values.values())
    assert not logged(plain, "train/conflict/mean")


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", {"class_path": "embedrl.distributed.FSDP2Strategy"}], ids=["ddp", "fsdp2"])
def test_two_processes_measure_what_one_does(strategy, tmp_path):
    off = {"backbone": {"lora": BACKBONE["init_args"]["lora"] | {"dropout": 0.0}}}
    model = {"gradient_conflict_every": 1}
    one = fit(recipe(tmp_path / "one", {"limit_val_batches": 0}, model, **off))
    two = recipe(tmp_path / "two", {"limit_val_batches": 0, "devices": 2, "strategy": strategy}, model, **off)
    finish(launch(Path(embedrl.__file__).parent / "__main__.py", "fit", "--config", two, log=tmp_path), tmp_path)
    for layer in ("layer_0", "layer_1", "mean", "all"):
        first, second = (logged(run, f"train/conflict/{layer}") for run in (one, tmp_path / "two/runs/version_0"))
        assert sorted(first) == sorted(second) == [0, 1]
        for step in first:
            assert first[step] == pytest.approx(second[step], abs=1e-4), layer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "trainer", "message"),
    [
        ({"gradient_conflict_every": 1, "losses": [info_nce("disc")]}, {}, "has no cross-entropy"),
        ({"gradient_conflict_every": 1, "losses": [reasoning("query")]}, {}, "has no embedrl.losses.VectorLoss"),
        ({"gradient_conflict_every": 3}, {"log_every_n_steps": 2}, "every 2 steps (trainer.log_every_n_steps)"),
        ({"gradient_conflict_every": -1}, {}, "model.gradient_conflict_every"),
    ],
)
def test_what_cannot_be_measured_gets_one_line(model, trainer, message, tmp_path, capsys):
    assert main(["fit", "--config", str(recipe(tmp_path, trainer, model))]) != 0
    [line] = [text for text in capsys.readouterr().err.splitlines() if text.startswith("embedrl: error: ")]
    assert message in line

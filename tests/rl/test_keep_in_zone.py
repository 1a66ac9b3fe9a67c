"""EG-RL kept in the partial zone: measured on time, obeyed by the data, and the same after an interruption."""

import pytest
import torch
from egrl_module import adapters, build, fit

from embedrl.data.datamodules.egrl import EGRLDataModule
from embedrl.data.mix import MixRow
from embedrl.data.world import WorldDifficulty, WorldSource
from embedrl.errors import ConfigError
from embedrl.rl import keep_in_zone
from embedrl.rl.keep_in_zone import KeepInPartialZone, _law


def data(choices=3):
    mix = [MixRow(WorldSource(family, size=24, teacher="none")) for family in ("vqa", "grounding")]
    return EGRLDataModule(batch_size=2, mix=mix, zone_choices=choices)


class Order(KeepInPartialZone):
    """Writes down the pairs of each step, too."""

    def __init__(self, **options):
        super().__init__(WorldDifficulty(), **options)
        self.order = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.order.append([pair.id for pair in batch.pairs])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_measured_obeys_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(keep_in_zone, "AHEAD", 2)
    whole = Order(every=2, pairs=4)
    module = build()
    first = fit(module, tmp_path / "a", 5, datamodule=data(), callbacks=[whole])
    assert [step for step, _ in whole.measured] == [0, 2, 4]
    assert all(set(laws) == {"world/vqa", "world/grounding"} for _, laws in whole.measured)
    # What was drawn obeys what was known: steps 0 and 1 nothing, then the zone of the measurement before.
    zone = first.datamodule.zone
    assert [batch for batch, _ in zone.known] == [2, 4, 6]
    (holds, predict), difficulty = zone.known[0], WorldDifficulty()
    assert holds == 2
    [pair] = whole.order[2][:1]
    dataset = f"world/{pair.split('-')[0]}"
    law = whole.measured[0][1][dataset]
    own = [[difficulty(pair)[name] for name in law.names]]
    assert predict(dataset, pair) == pytest.approx(float(law.success(torch.tensor(own).double().numpy())[0]))

    half = Order(every=2, pairs=4)
    stopped = fit(build(), tmp_path / "b", 3, datamodule=data(), callbacks=[half])
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    rest, resumed = Order(every=2, pairs=4), build()
    fit(resumed, tmp_path / "c", 5, tmp_path / "half.ckpt", data(), callbacks=[rest])
    assert half.order + rest.order == whole.order
    assert rest.measured == whole.measured
    assert all(torch.equal(value, adapters(module)[name]) for name, value in adapters(resumed).items())


def test_a_data_set_whose_pairs_are_alike_has_a_constant():
    law = _law([{"x": 2.0, "y": 1.0}] * 3, torch.tensor([0.0, 0.5, 1.0]).numpy(), 4)
    assert law.success(torch.tensor([[2.0, 1.0], [9.0, 9.0]]).numpy()) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("options", [{"every": 0}, {"pairs": 1}])
def test_wrong_options(options):
    with pytest.raises(ConfigError, match="KeepInPartialZone: every"):
        KeepInPartialZone(WorldDifficulty(), **options)


def test_it_needs_something_to_choose_from():
    class Run:
        datamodule = data(choices=1)

    with pytest.raises(ConfigError, match=r"data.zone_choices is 1"):
        KeepInPartialZone(WorldDifficulty()).on_fit_start(Run(), build())
    with pytest.raises(ConfigError, match="belongs to an EG-RL recipe"):
        KeepInPartialZone(WorldDifficulty()).on_fit_start(Run(), object())

from types import SimpleNamespace

import pytest
import torch
import yaml
from fake_data import DATA_MODULES, FakePreprocessor, Numbers, NumberTasks
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI

from embedrl.data.collate import Place
from embedrl.data.datamodules.embedder import EmbedderDataModule
from embedrl.data.mix import MixRow
from embedrl.data.render import RenderOptions
from embedrl.errors import ConfigError, DataError

RAW = RenderOptions(tcot="none")


class Backbone(torch.nn.Module):
    def preprocessor(self):
        return FakePreprocessor()


class Model(LightningModule):
    """Gathers what it is given."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.train_batches, self.encoded = [], {}

    def training_step(self, batch, batch_idx):
        self.train_batches.append(batch)
        return self.weight**2

    def encode(self, batch):
        values = torch.cat([inputs["value"] for inputs in batch.micro_batches])
        flat = torch.empty_like(values)
        flat[batch.order] = values
        for value, places in zip(flat.tolist(), batch.items, strict=True):
            for place in places:
                assert place not in self.encoded
                self.encoded[place] = value
        return flat

    def validation_step(self, batch, batch_idx):
        self.encode(batch)

    def test_step(self, batch, batch_idx):
        self.encode(batch)

    def predict_step(self, batch, batch_idx):
        return self.encode(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data(**kwargs):
    settings = {
        "batch_size": 4,
        "sub_batch_size": 2,
        "micro_batch_size": 3,
        "mix": [MixRow(Numbers("a", 9)), MixRow(Numbers("b", 7, video=True), weight=2.0)],
        "render": RAW,
        **kwargs,
    }
    return EmbedderDataModule(**settings)


def trainer(tmp_path, **kwargs):
    return Trainer(
        logger=False,
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
        **{"max_epochs": 1, **kwargs},
    )


def test_fit_without_validation_tasks(tmp_path):
    model, module = Model(), data()
    trainer(tmp_path).fit(model, module)
    assert len(model.train_batches) == 16 // 4
    assert module.tasks == []
    for batch in model.train_batches:
        assert batch.num_pairs == 4
        assert [a == b for a, b in zip(batch.datasets[::2], batch.datasets[1::2], strict=True)] == [True, True]
        assert batch.datasets.count("b") <= 2


@pytest.mark.parametrize(("stage", "workers"), [("validate", 0), ("test", 0), ("predict", 0), ("predict", 1)])
def test_every_side_is_encoded_once_and_put_in_its_place(tmp_path, stage, workers):
    tasks = [NumberTasks("x", 7), NumberTasks("y", 3)]
    model, module = Model(), data(val=tasks, test=tasks, encode_batch_size=4, num_workers=workers)
    result = getattr(trainer(tmp_path), stage)(model, module)
    assert [task.name for task in module.tasks] == ["x", "y"]
    expected = {
        Place(t, kind, i): float(i % 5 if kind == "query" else i)
        for t, size in enumerate((7, 3))
        for kind in ("query", "candidate")
        for i in range(size)
    }
    assert model.encoded == expected
    if stage == "predict":  # Lightning builds this loader anew
        assert sum(len(vectors) for vectors in result) == 5 + 7 + 3 + 3


def test_fit_validates_on_the_val_tasks(tmp_path):
    model, module = Model(), data(val=[NumberTasks("x", 2)], test=[NumberTasks("z", 3)])
    trainer(tmp_path).fit(model, module)
    assert len(model.encoded) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_row_stops_the_run_in_one_line(tmp_path, workers):
    module = data(mix=[MixRow(Numbers("bad", 9, broken=(5,)))], num_workers=workers)
    with pytest.raises(DataError) as caught:
        trainer(tmp_path, max_epochs=3).fit(Model(), module)
    assert str(caught.value) == "bad/5 (query): broken.png: truncated; copy it again"


def test_a_broken_row_is_skipped_and_reported(tmp_path):
    model = Model()
    trainer(tmp_path, max_epochs=3).fit(model, data(mix=[MixRow(Numbers("bad", 9, broken=(5,)))], on_bad="skip"))
    skipped = [bad for batch in model.train_batches for bad in batch.skipped]
    assert skipped
    assert set(skipped) == {("bad", "5", "broken_row", "bad/5 (query): broken.png: truncated; copy it again")}


def test_negatives(tmp_path):
    model = Model()
    trainer(tmp_path).fit(model, data(mix=[MixRow(Numbers("a", 8, negatives=3))], max_negatives=2))
    counts = {int(i): n for batch in model.train_batches for i, n in zip(batch.ids, batch.negative_counts, strict=True)}
    assert counts == {i: min(i % 4, 2) for i in range(8)}


@pytest.mark.parametrize(
    ("kwargs", "trainer_args", "message"),
    [
        ({"mix": None}, {}, r"data\.mix is empty"),
        ({"mix": [MixRow(Numbers()), MixRow(Numbers())]}, {}, "two rows are named numbers"),
        ({"batch_size": 5}, {}, r"data\.batch_size 5"),
        ({"micro_batch_size": 0}, {}, r"data\.micro_batch_size is 0"),
        ({"encode_batch_size": 0, "val": [NumberTasks()]}, {}, r"data\.encode_batch_size is 0"),
        ({"val": [NumberTasks(), NumberTasks()]}, {}, "2 tasks are named numbers"),
        ({}, {"reload_dataloaders_every_n_epochs": 1}, "reload_dataloaders_every_n_epochs"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, kwargs, trainer_args, message):
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, **trainer_args).fit(Model(), data(**kwargs))


def test_rows_may_be_renamed(tmp_path):
    model = Model()
    trainer(tmp_path).fit(model, data(mix=[MixRow(Numbers(), name="one"), MixRow(Numbers(), name="two")]))
    assert {name for batch in model.train_batches for name in batch.datasets} == {"one", "two"}


def two_ranks(module, rank):
    """Give a data module the trainer of one of two processes, as far as it looks at it."""
    module.trainer = SimpleNamespace(
        world_size=2,
        global_rank=rank,
        lightning_module=Model(),
        reload_dataloaders_every_n_epochs=0,
        overfit_batches=0,
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=False),
    )
    return module


def test_two_ranks_stay_in_step_and_share_the_batch():
    settings = {"mix": [MixRow(Numbers("a", 16, negatives=3))], "max_negatives": 3, "val": [NumberTasks("x", 9)]}
    modules = [two_ranks(data(**settings), rank) for rank in range(2)]
    steps = list(zip(*(module.train_dataloader() for module in modules), strict=True))
    assert sorted(int(i) for step in steps for batch in step for i in batch.ids) == list(range(16))
    # two pairs a rank, at most three negatives each: ten sides, in micro-batches of three
    assert {len(batch.micro_batches) for step in steps for batch in step} == {4}
    assert len({sum(batch.negative_counts) for step in steps for batch in step}) > 1
    for module in modules:
        module.setup("fit")
    encoded = [batch for module in modules for batch in module.val_dataloader()[0]]
    assert len({len(batch.micro_batches) for batch in encoded}) == 1
    assert sum(len(batch.items) for batch in encoded) == 5 + 9


@pytest.mark.parametrize("make", DATA_MODULES.values(), ids=DATA_MODULES)
@pytest.mark.parametrize("setting", ["use_distributed_sampler", "reload_dataloaders_every_n_epochs"])
def test_what_the_trainer_must_leave_to_the_data_module(make, setting):
    """Sharding a second time, and loading anew, which would begin the stream again."""
    module = two_ranks(make(), 0)
    module.setup("fit")
    where = module.trainer if setting.startswith("reload") else module.trainer._accelerator_connector
    setattr(where, setting, 1)
    with pytest.raises(ConfigError, match=rf"trainer\.{setting}"):
        module.setup("fit")


@pytest.mark.parametrize("make", DATA_MODULES.values(), ids=DATA_MODULES)
def test_a_position_is_kept_before_anything_is_loaded(make):
    """A checkpoint that is written before the first batch of a resumed run goes on where that one would."""
    module = make()
    assert module.state_dict() == {"batches_seen": 0}
    module.load_state_dict({"batches_seen": 5})
    assert module.state_dict() == {"batches_seen": 5}


MIX = [
    {"source": {"class_path": "fake_data.Numbers", "init_args": {"name": "a", "size": 9}}, "weight": 0.26},
    {"source": {"class_path": "fake_data.Numbers", "init_args": {"name": "b", "size": 7}}, "name": "renamed"},
]


@pytest.mark.parametrize("by_file", [False, True])
def test_from_yaml(tmp_path, by_file):
    """The mix and the render options stand in the config, or in files named there relative to it."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "mix.yaml").write_text(yaml.safe_dump(MIX))
    (tmp_path / "parts" / "render.yaml").write_text(yaml.safe_dump({"tcot": "none", "jitter": 3.5}))
    config = {
        "trainer": {"accelerator": "cpu", "logger": False},
        "data": {
            "mix": "parts/mix.yaml" if by_file else MIX,
            "render": "parts/render.yaml" if by_file else {"tcot": "none", "jitter": 3.5},
            "val": [{"class_path": "fake_data.NumberTasks", "init_args": {"size": 3}}],
            "batch_size": 4,
            "sub_batch_size": 2,
            "micro_batch_size": 2,
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    cli = LightningCLI(
        Model,
        EmbedderDataModule,
        run=False,
        args=["--config", str(tmp_path / "config.yaml"), "--data.render.max_evidence=2"],
        save_config_callback=None,
        parser_kwargs={"parser_mode": "omegaconf+"},
    )
    module = cli.datamodule
    assert [row.label for row in module.mix] == ["a", "renamed"]
    assert [row.weight for row in module.mix] == [0.26, 1.0]
    assert [len(row.source) for row in module.mix] == [9, 7]
    assert module.render == RenderOptions(tcot="none", jitter=3.5, max_evidence=2)
    assert [task.name for source in module.val for task in source.tasks()] == ["numbers"]

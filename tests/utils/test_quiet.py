"""Known noise is silenced by its text; anything else is still heard."""

import logging
import warnings

import pytest

from embedrl.utils.quiet import BARS, LOGS, silence_bars, silence_messages

SILENT = {
    "pytree": "`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec) and ...` instead.",
    "checkpointing": "`is_gradient_checkpointing` is deprecated and will be removed in v6. Use `is_activation_...`",
    "eval mode": "Found 393 module(s) in eval mode at the start of training. This may lead to unexpected behavior",
    "callbacks": "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint need to be provided "
    "during `Trainer` instantiation. Please add the following callbacks: "
    + str(["LastCheckpoint{'monitor': None, 'mode': 'min'}", "ModelCheckpoint{'monitor': 'val/hit@1'}"])
    + ".",
}
HEARD = {
    "another deprecation": "`isinstance(treespec, PyTree)` is deprecated",
    "a callback of the user's": "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint need to "
    "be provided during `Trainer` instantiation. Please add the following callbacks: "
    + str(["ModelCheckpoint{'monitor': None}", "WeightAverage"])
    + ".",
    "a hint": "The 'train_dataloader' does not have many workers which may be a bottleneck.",
}


@pytest.mark.parametrize(("text", "heard"), [(t, 0) for t in SILENT.values()] + [(t, 1) for t in HEARD.values()])
def test_warnings(text, heard):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silence_messages()
        warnings.warn(text, FutureWarning, stacklevel=1)
    assert len(caught) == heard


@pytest.mark.parametrize(
    ("name", "text", "heard"),
    [
        ("lightning.pytorch.utilities.rank_zero", "💡 Tip: For it, try installing [litlogger](https://x)", 0),
        ("lightning.pytorch.utilities.rank_zero", "💡 Tip: For it, try installing [litmodels](https://x)", 0),
        ("lightning.pytorch.utilities.rank_zero", "TPU available: False, using: 0 TPU cores", 0),
        ("lightning.pytorch.utilities.rank_zero", "TPU available: True, using: 8 TPU cores", 1),
        ("lightning.pytorch.utilities.rank_zero", "`Trainer.fit` stopped: `max_steps=4` reached.", 1),
        ("transformers.modeling_utils", "\x1b[1mBertModel LOAD REPORT\x1b[0m from: towers/text", 0),
        ("transformers.modeling_utils", "\x1b[1mQwen3VLModel LOAD REPORT\x1b[0m from: broken", 1),
    ],
)
def test_logs(name, text, heard):
    silence_messages()
    silence_messages()
    logger = logging.getLogger(name)
    assert len(logger.filters) == 1
    assert bool(logger.filter(logger.makeRecord(name, logging.WARNING, "f", 1, text, None, None))) == bool(heard)
    assert name in LOGS


@pytest.mark.parametrize(("title", "shown"), [*((title, False) for title in BARS), ("Downloading", True)])
def test_bars(title, shown, capsys):
    import transformers.utils.logging as theirs

    before = theirs.set_tqdm_hook(None)
    try:
        silence_bars()
        assert list(theirs.tqdm([1, 2], desc=title)) == [1, 2]
    finally:
        theirs.set_tqdm_hook(before)
    assert (title in capsys.readouterr().err) == shown


def test_the_texts_are_those_of_the_libraries():
    """Each pattern names a text that an installed library holds: one that has gone is to be deleted here too."""
    import inspect

    import lightning.pytorch.loops.fit_loop as fit_loop
    import lightning.pytorch.trainer.call as call
    import lightning.pytorch.trainer.connectors.callback_connector as callbacks
    import lightning.pytorch.trainer.connectors.data_connector as data
    import lightning.pytorch.trainer.connectors.logger_connector.logger_connector as loggers
    import lightning.pytorch.trainer.setup as setup
    import torch.utils._pytree as pytree
    import transformers.core_model_loading as loading
    import transformers.modeling_utils as models
    import transformers.utils.loading_report as report

    for module, text in {
        pytree: "`isinstance(treespec, LeafSpec)` is deprecated",
        models: "`is_gradient_checkpointing` is deprecated",
        data: "You have overridden",
        fit_loop: "module(s) in eval mode at the start of training",
        call: "Please add the following callbacks",
        loggers: "try installing [litlogger]",
        callbacks: "try installing [litmodels]",
        setup: "TPU available: ",
        report: " LOAD REPORT",
        loading: BARS[0],
    }.items():
        assert text in inspect.getsource(module), module
    assert BARS[1] in inspect.getsource(models)

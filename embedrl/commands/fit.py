"""`embedrl fit | validate | test | predict`: LightningCLI with safer defaults."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_parsing_settings
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from embedrl.commands.parsing import OneLineErrors, mending, with_class_paths
from embedrl.commands.refusals import check_trainer_values, refusal
from embedrl.errors import ConfigError
from embedrl.training.callbacks.fail_fast import FailFast
from embedrl.training.callbacks.progress_lines import ProgressLines
from embedrl.training.callbacks.provenance import SaveRun
from embedrl.training.callbacks.run_summary import RunSummary
from embedrl.training.callbacks.step_bar import StepBar
from embedrl.training.callbacks.write_vectors import WriteVectors
from embedrl.training.checkpoints import peek
from embedrl.training.monitors import CheckMonitors
from embedrl.training.resume import ApplyChanges, Change, check_changes, requeued_checkpoint
from embedrl.training.run_dir import AtomicCheckpointIO, CheckpointOptions, find_checkpoint
from embedrl.training.run_folder import claim_version, discard_version, lock_run, next_version, unlock_run, version_of
from embedrl.training.seeding import choose_seed
from embedrl.training.stopping import StopOnSignal, stop_of
from embedrl.training.trainer_checks import check_precision, check_trainer
from embedrl.utils.console import tell
from embedrl.utils.secrets import has_secrets, watch_environment, without_secrets
from embedrl.utils.yaml_checks import check_yaml


class TrainingParser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser with errors of one line, which writes a configuration without parsing it once more."""

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """The configuration as YAML without secrets; it was validated when parsed, which takes long for a long mix."""
        text = str(super().dump(*args, **{"skip_validation": True, **kwargs}))
        if not has_secrets(text):
            return text
        return yaml.safe_dump(without_secrets(yaml.safe_load(text)), sort_keys=False, allow_unicode=True)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Write the configuration as YAML; see `dump`."""
        super().save(*args, **{"skip_validation": True, **kwargs})


class TrainingCLI(LightningCLI):
    """Lightning's CLI with run folders, atomic checkpoints and exact resume.

    A checkpoint's hyperparameters never change the configuration, optimizers come from the module's own arguments, and
    `--ckpt_path last` continues in the run folder it came from.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--checkpoint.*` and `--next_command`."""
        parser.add_class_arguments(CheckpointOptions, "checkpoint")
        parser.add_argument(
            "--next_command",
            type=str | None,
            help="The command to name when `fit` ends, such as the next training.",
        )
        parser.add_argument(
            "--accept_changes",
            type=bool,
            default=False,
            help="With --ckpt_path: go on although model, data or seed are not those of the checkpoint.",
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Leave Lightning's table of scores out unless it is asked for (`RunSummary` prints a shorter one)."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if "verbose" in self._subcommand_method_arguments[subcommand]:
            parser.set_defaults({"verbose": False})
        if "return_predictions" in self._subcommand_method_arguments[subcommand]:
            parser.set_defaults({"return_predictions": False})  # nobody would read them, and they fill the memory
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse `args` into `config`.

        Raises:
            ConfigError: If a file or a flag is wrong.
        """
        words = with_class_paths(pick_overlays([str(word) for word in args or ()]))
        with mending(words):
            self.config = parser.parse_args(words)

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: Lightning would lay the checkpoint's hyperparameters over it, silently."""

    def _set_seed(self) -> None:
        """Seed the run; what is written is the seed itself, also if it was drawn.

        Raises:
            ConfigError: If it is no seed.
        """
        config = self.config[self.config.subcommand]
        config.seed_everything = choose_seed(config.seed_everything)
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Replace `last` by a path, and check what can be checked before anything is built.

        Raises:
            ConfigError: If an option does not go together with the checkpoint, or with any training.
            CheckpointError: If there is no such checkpoint.
        """
        config = self.config[self.config.subcommand]
        fits = self.config.subcommand == "fit"
        self._root = Path(config.trainer.default_root_dir)
        self._version: str | None = None
        self._folder: Path | None = None
        self._changes: list[Change] = []
        check_precision(config.trainer.precision, config.trainer.accelerator)
        check_trainer_values(config.trainer)
        if fits and not config.ckpt_path and (requeued := requeued_checkpoint(self._root)):
            tell(f"SLURM has requeued this job: goes on from {requeued}")
            config.ckpt_path = requeued
        if config.get("ckpt_path"):
            config.ckpt_path = find_checkpoint(config.ckpt_path, self._root)
            if Path(config.ckpt_path).is_file():  # broken: told now, not when all is built and a folder made
                peek(config.ckpt_path, config.get("weights_only") is not False, "--ckpt_path ")
            self.save_config_kwargs["resumed_from"] = config.ckpt_path
            if fits:
                plain = yaml.safe_load(self._parser("fit").dump(config, skip_none=False))
                self._changes = check_changes(config.ckpt_path, plain, config.accept_changes)
                self.save_config_kwargs["changed"] = self._changes
                self._version = version_of(config.ckpt_path, self._root)
        config.accept_changes = False  # of this start alone, as ckpt_path

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the run's logger and atomic checkpoints, unless the configuration brings its own."""
        trainer = self._get(self.config_init, "trainer")
        if trainer.get("logger") in (None, True) and not trainer.get("barebones"):
            prefix = "version" if self.subcommand == "fit" else str(self.subcommand)
            kwargs["logger"] = TensorBoardLogger(self._root, name="", version=self._claim(prefix))
        plugins = _as_list(trainer.get("plugins"))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        callbacks = _as_list(trainer.get("callbacks"))
        if self._changes:
            callbacks.append(ApplyChanges(self._changes))
        shows_progress = trainer.get("enable_progress_bar") is not False and not trainer.get("barebones")
        if shows_progress and not any(isinstance(callback, ProgressBar) for callback in callbacks):
            callbacks.insert(0, progress_bar())
        callbacks.append(RunSummary(self._get(self.config_init, "next_command")))
        keeps = trainer.get("enable_checkpointing") is not False and not trainer.get("barebones")
        if self.subcommand == "fit" and keeps:
            if trainer["logger"] is False:
                self._lock_root()
            callbacks += self._get(self.config_init, "checkpoint").callbacks()
        if self.subcommand == "predict" and not any(
            isinstance(c, WriteVectors | BasePredictionWriter) for c in callbacks
        ):
            callbacks.append(WriteVectors())
        trainer["callbacks"] = callbacks
        self.config[self.subcommand].ckpt_path = None  # config.yaml starts a run like this one; it does not resume it
        try:
            made = super().instantiate_trainer(plugins=plugins, **kwargs)
            check_trainer(made, self.model)
        except BaseException:
            self._give_up_claim()
            raise
        # Which checkpoint to go on from is decided: Lightning would also take one that another job or run has left.
        made._checkpoint_connector._parse_ckpt_path = _as_given  # type: ignore[method-assign, assignment]
        return made

    def _claim(self, prefix: str) -> str:
        """The name of the run's folder, which the first process makes and locks; the others hear of it from there."""
        first = not _get_rank()
        if first and not self._get(self.config_init, "trainer").get("fast_dev_run"):
            version = self._version or claim_version(prefix, self._root)
            lock_run(self._root / version)
            self._folder = self._root / version
            return version
        return self._version or next_version(prefix, self._root)

    def _lock_root(self) -> None:
        """Without a logger the checkpoints go there, of every run."""
        if not _get_rank():
            self._root.mkdir(parents=True, exist_ok=True)
            lock_run(self._root)
            self._folder = self._root

    def _give_up_claim(self) -> None:
        """Remove the folder of a run that does not begin."""
        if self._folder is not None and self._folder != self._root and self._version is None:
            discard_version(self._folder)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; Lightning's own exit codes say that a run which a signal stopped is finished, or broken."""
        try:
            super()._run_subcommand(subcommand)
        except SIGTERMException as raised:
            stop = stop_of(self.trainer)
            raise SystemExit(stop.exit_code(self.trainer) if stop else 128 + signal.SIGTERM) from raised
        except SystemExit as raised:
            if isinstance(raised.__context__, KeyboardInterrupt):  # before training took the signals over
                raise raised.__context__ from None
            raise
        finally:
            if self._folder is not None:
                unlock_run(self._folder)


def run(args: Sequence[str]) -> None:
    """Run one training command.

    Args:
        args: The command (`fit`, `validate`, `test`, `predict`) and its options.

    Raises:
        EmbedRLError: If something a user can mend is wrong.
    """
    start(args, TrainingCLI)


def start(args: Sequence[str], cli: type[TrainingCLI]) -> TrainingCLI:
    """Run a command line.

    Raises:
        EmbedRLError: If something a user can mend is wrong.
    """
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    watch_environment()
    try:
        return cli(
            args=list(args),
            parser_class=TrainingParser,
            parser_kwargs={"parser_mode": "omegaconf+", "prog": "embedrl"},
            save_config_callback=SaveRun,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={
                "default_root_dir": "runs",
                "use_distributed_sampler": False,  # Lightning's would always shuffle, and shard a second time
                "enable_model_summary": False,  # `RunSummary` names the sizes
                "callbacks": [FailFast(), StopOnSignal(), CheckMonitors()],
            },
        )
    except (MisconfigurationException, ImportError, ValueError, TypeError) as error:
        if (refused := refusal(error)) is None:
            raise
        raise refused from error


def pick_overlays(words: Sequence[str]) -> list[str]:
    """Replace each `--config FILE` that holds one overlay for each module by the overlay of the module in training.

    Such a file is a YAML mapping from modules' class names to other files, relative to itself.

    Args:
        words: The command's words; the module is the one that the files before it name.

    Raises:
        ConfigError: If no file before it names a module, or it has no overlay for that module.
    """
    picked, module, flagged = list(words), "", False
    for at, word in enumerate(words):
        given = word.removeprefix("--config=") if word.startswith("--config=") else word if flagged else ""
        flagged = word == "--config"
        content = _mapping(Path(given)) if given else {}
        if content and all(name.endswith("Module") and isinstance(file, str) for name, file in content.items()):
            if module not in content:
                reason = f"has none for {module}" if module else "comes before the recipe"
                raise ConfigError(f"--config {given}: holds overlays for {', '.join(content)}, and {reason}")
            picked[at] = word.replace(given, str(Path(given).parent / content[module]))
        elif isinstance(content.get("model"), dict) and "class_path" in content["model"]:
            module = str(content["model"]["class_path"]).rpartition(".")[2]
    return picked


def _mapping(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; empty if it holds none, which the parser reports."""
    check_yaml(path)
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) and all(isinstance(key, str) for key in content) else {}


def progress_bar() -> ProgressBar:
    """A bar on a terminal, lines in a file."""
    return StepBar() if sys.stdout.isatty() else ProgressLines()


def _as_given(state_fn: Any, ckpt_path: Any, **_: Any) -> Any:
    """The checkpoint that the command line has chosen."""
    return ckpt_path


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]

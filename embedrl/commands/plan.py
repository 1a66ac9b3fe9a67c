"""`embedrl plan`: parameters, memory, tokens and FLOPs of a recipe, from its configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from embedrl.commands.fit import TrainingCLI, start
from embedrl.planning.rows import Assumptions
from embedrl.planning.table import show
from embedrl.planning.trainings import Plan, make_plan
from embedrl.utils.console import make_console


class PlanCLI(TrainingCLI):
    """Reads what `embedrl fit` would train, and trains nothing."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--assume.*` and `--shapes`."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--shapes",
            type=str | None,
            default=None,
            help="Folder with config.json and preprocessor_config.json of a Hub name that is not on this machine.",
        )
        parser.add_class_arguments(Assumptions, "assume")

    def before_instantiate_classes(self) -> None:
        """Leave checkpoints and run folders alone."""

    def instantiate_classes(self) -> None:
        """Build the LightningModule alone: neither data nor devices are needed."""
        config = self.config[self.config.subcommand]
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(LightningModule, "model")
        parsed = parser.parse_object({"model": config.model})
        self.module = parser.instantiate_classes(parsed).model
        self.settings = config

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing runs."""


def plan(words: Sequence[str]) -> tuple[Plan, Assumptions]:
    """The plan of a recipe.

    Args:
        words: The options of `embedrl fit`, and `--assume.*`.

    Raises:
        EmbedRLError: If the configuration is wrong, or a checkpoint's shape is not known on this machine.
    """
    module, settings = read(words)
    assume = Assumptions(**settings.assume.as_dict())
    return make_plan(module, settings.data.init_args, settings.trainer, assume, settings.shapes), assume


def read(words: Sequence[str]) -> tuple[LightningModule, Any]:
    """A recipe's LightningModule, not built, and all its settings, parsed.

    Args:
        words: As for `plan`.

    Raises:
        EmbedRLError: If the configuration is wrong.
    """
    cli: Any = start(["fit", *words], PlanCLI)
    return cli.module, cli.settings


def run(args: Sequence[str]) -> None:
    """Print the plan of a recipe.

    Args:
        args: The command and its options: those of `embedrl fit`, and `--assume.*`.
    """
    make_console().print(show(*plan(args[1:])))

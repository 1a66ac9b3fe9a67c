"""The script that makes the reference pages: what it reads from signatures, types and docstrings."""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
from torch.optim import Optimizer

from embedrl import cli

SCRIPT = Path(__file__).parents[1] / "scripts/docs_reference.py"


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("docs_reference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Source(Protocol):
    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...


class Rows:
    """Some rows.

    More about them.

    Args:
        size: How many | there are.
        kind: Which kind.
    """

    def __init__(self, size: int, kind: Literal["a", "b"] = "a") -> None:
        self.size, self.name = size, "rows"

    def __len__(self) -> int:
        return self.size


class Nameless:
    def __len__(self) -> int:
        return 0


TYPES = [
    (int, "int"),
    (float | None, "float | null"),
    (Literal["full", "brief"], "full | brief"),
    (list[Rows], "list of Rows"),
    (Sequence[str], "list of str"),
    (tuple[str, ...], "list of str"),
    (dict[str, Any] | None, "mapping | null"),
    (Callable[[Iterable], Optimizer], "Optimizer"),
]


@pytest.mark.parametrize(("hint", "text"), TYPES)
def test_types_in_few_words(hint, text, reference):
    assert reference.type_text(hint) == text


@pytest.mark.parametrize(("value", "text"), [(None, "null"), (True, "true"), (("a", 1), "[a, 1]"), (0.5, "0.5")])
def test_defaults_as_yaml_writes_them(value, text, reference):
    assert reference.shown(value) == text


def test_fields_with_types_defaults_and_descriptions(reference):
    size, kind = reference.fields_of(Rows)
    assert (size.path, size.hint, size.default) == ("size", int, "required")
    assert size.text.startswith("How many | there are.")
    assert (kind.path, kind.default) == ("kind", "`a`")
    assert reference.first_paragraphs(Rows) == "Some rows.\n\nMore about them."
    assert reference.summary(Rows) == "Some rows."
    assert reference.cell("a | b") == "a \\| b"


def test_fields_of_a_group_are_dotted(reference):
    from embedrl import EmbedderDataModule

    fields = {field.path: field for field in reference.fields_of(EmbedderDataModule)}
    assert fields["batch_size"].default == "required"
    assert fields["render.tcot"].default == "`full`"
    assert fields["render.tcot"].text
    assert "render" not in fields


def test_what_fits_where(reference):
    from embedrl.data import PairSource, TaskSource
    from embedrl.data.world import WorldSource, WorldTasks

    assert reference.fits(WorldSource, PairSource)
    assert reference.fits(WorldTasks, TaskSource)
    assert not reference.fits(WorldTasks, PairSource)
    assert not reference.fits(Nameless, Source)
    assert not reference.fits(Source, Source)
    assert reference.fits(Rows, Rows)
    assert list(reference.slots_in(list[Rows] | None)) == [Rows]


def test_a_commands_help(reference):
    text = reference.help_of("data world")
    assert text.startswith("usage: embedrl data world")
    assert max(map(len, text.splitlines())) <= 100
    assert all(command.help for command in cli.COMMANDS.values())

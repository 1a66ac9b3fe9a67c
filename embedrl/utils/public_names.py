"""The names that users write: a package's stub lists them, and each is imported when it is first used (PEP 562).

`__init__.pyi` is the one list: type checkers read it, `lazy` serves it at run time, and the command line takes the
classes in it by name alone. YAML files and checkpoints hold these names, so modules can move without breaking either.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def lazy(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose names stand in its stub.

    Args:
        package: Its `__name__`.
    """

    def get(name: str) -> Any:
        names = names_of(package)
        if name == "__all__":
            return sorted(names)
        if name in names:
            value = getattr(import_module(names[name]), name)
        elif name in _rooms(package):
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *names_of(package)})


@cache
def names_of(package: str) -> dict[str, str]:
    """Public name → module that defines it, of one package.

    Args:
        package: Such as `embedrl.rl`.
    """
    return {name: f"{package}.{module}" for module, name in _imports(package) if module}


@cache
def _rooms(package: str) -> frozenset[str]:
    """The packages inside a package that its stub names."""
    return frozenset(name for module, name in _imports(package) if not module)


def _imports(package: str) -> list[tuple[str, str]]:
    """Each import of a stub: the module, empty for a package of its own, and the name."""
    import ast  # not needed to start

    stub = ROOT.joinpath(*package.split(".")[1:], "__init__.pyi")
    statements = ast.parse(stub.read_text(encoding="utf-8")).body
    return [
        (node.module or "", alias.name)
        for node in statements
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    ]


@cache
def public_packages() -> tuple[str, ...]:
    """The packages that have public names, those with the shortest path first."""
    folders = sorted((stub.parent.relative_to(ROOT).parts for stub in ROOT.rglob("__init__.pyi")), key=_depth)
    return tuple(".".join(["embedrl", *parts]) for parts in folders)


@cache
def public_names() -> dict[str, str]:
    """Every public name → its whole path; of several packages with one name, the one with the shortest path."""
    names: dict[str, str] = {}
    for package in public_packages():
        for name in names_of(package):
            names.setdefault(name, f"{package}.{name}")
    return names


def public_path(cls: type) -> str:
    """The path under which a class is known: its public name, or where it is defined if it has none.

    >>> from embedrl.types import Side
    >>> public_path(Side), public_path(dict)
    ('embedrl.Side', 'builtins.dict')
    """
    for package in public_packages():
        if names_of(package).get(cls.__name__) == cls.__module__ and cls.__qualname__ == cls.__name__:
            return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def import_all() -> None:
    """Import every public name, so that `--help` can list the kit's own classes."""
    for package in public_packages():
        for module in set(names_of(package).values()):
            import_module(module)


def _depth(parts: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    return len(parts), parts

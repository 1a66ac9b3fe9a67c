"""The one step of the build that pyproject.toml cannot say: the recipes of `configs/` become part of the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copies `configs/` to `embedrl/configs` of the wheel. An editable install reads them where they are."""

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        if not self.editable_mode:
            recipes = Path(self.build_lib) / "embedrl" / "configs"
            shutil.rmtree(recipes, ignore_errors=True)  # left by an earlier build
            shutil.copytree("configs", recipes)


setup(cmdclass={"build_py": BuildWithRecipes})

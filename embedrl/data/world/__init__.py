"""The built-in procedural world: scenes, videos, pages, task families, teachers."""

from embedrl.data.world.draw import WorldImage
from embedrl.data.world.families import FAMILIES
from embedrl.data.world.source import WorldSource, WorldTask, WorldTasks, needs
from embedrl.data.world.views import Needs

__all__ = ["FAMILIES", "Needs", "WorldImage", "WorldSource", "WorldTask", "WorldTasks", "needs"]

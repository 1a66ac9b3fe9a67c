"""A picture of the world that is drawn when it is needed."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from embedrl.data.world.draw import draw_picture
from embedrl.data.world.page import Page, draw_page
from embedrl.data.world.scene import Picture


@dataclass(frozen=True, slots=True)
class WorldImage:
    """A picture of the world that is drawn when its pixels are needed; implements `ImageSource`.

    Attributes:
        spec: A `Picture` or a `Page`.
    """

    spec: Picture | Page

    @property
    def name(self) -> str:
        """The content as text: equal names mean equal pixels."""
        return self.spec.name

    def load(self) -> Image.Image:
        """Draw it, RGB, at native size."""
        if isinstance(self.spec, Picture):
            return draw_picture(self.spec)
        return draw_page(self.spec)

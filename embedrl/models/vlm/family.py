"""What can be different in a family of vision-language models; the base class itself is the common path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from PIL.Image import Image
from torch import Tensor, nn

from embedrl.errors import ConfigError
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.vlm.boxes import Coordinates


class VLMFamily:
    """The common path; a subclass says what is different in its family.

    Attributes:
        reads_video: Whether a video goes to its video processor; otherwise its frames are read as pictures.
        pictures_by_row: Whether `pixel_values` has a row for each chat, filled up with empty pictures.
        boxes: How it writes boxes.
        template: A chat template for checkpoints that have none.
        image_mark: The token at which the model reads pictures, where its processor names another one for texts.
        projector: Pattern of the modules inside the vision tower that map its features to the language model.
        reply_type: What `token_type_ids` calls the tokens that the model writes.
        ends_at_emb: Whether a chat can end at `<emb>`, where sentence-transformers takes its vector.
        refused: Why it cannot be used; empty if it can.
    """

    reads_video: ClassVar[bool] = False
    pictures_by_row: ClassVar[bool] = False
    boxes: ClassVar[Coordinates] = "thousand"
    template: ClassVar[str] = ""
    image_mark: ClassVar[str] = ""
    projector: ClassVar[str] = r"(.*\.)?(merger|deepstack_merger_list)(\..*)?"
    reply_type: ClassVar[int] = 0
    ends_at_emb: ClassVar[bool] = True
    refused: ClassVar[str] = ""

    def read(self, processor: Any, text: str, images: Sequence[Image], options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The processor's inputs of one chat.

        Args:
            processor: The processor.
            text: The chat by its template.
            images: Its pictures.
            options: What else the processor takes.
        """
        # A list in a list: some processors read several pictures of one chat otherwise than one picture alone.
        nested = [list(images)] if images else None
        made: Mapping[str, Any] = processor(text=[text], images=nested, return_tensors="pt", **options)
        return made

    def taken_apart(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The processor's inputs of one chat, so that those of several chats can be joined in the first dimension."""
        return dict(inputs)

    def put_together(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of several chats that were joined so, as the network takes them."""
        return dict(inputs)

    def set_pixels(self, processor: Any, budget: PixelBudget) -> None:
        """Write the budget of a picture into the processor.

        Raises:
            ConfigError: If the processor has no such notion.
        """
        name = type(processor.image_processor).__name__
        raise ConfigError(
            f"backbone.image_pixels: a {name} has no budget of pixels: leave it null, "
            "and set its own options with backbone.image_settings"
        )

    def vision_tower(self, core: Any) -> nn.Module | None:
        """The vision tower, None if there is none to be found.

        Args:
            core: The model without its LM head.
        """
        tower = core.get_encoder(modality="image")
        return tower if isinstance(tower, nn.Module) and tower is not core else None

    def grow(self, network: Any, row: int) -> None:
        """Called when the base has no row of a new token: give it to other tables than the embedding and the head."""

    def picture_tokens(self, processor: Any, size: tuple[int, int]) -> int:
        """About how many tokens a picture has.

        Args:
            processor: The processor.
            size: Width and height of the picture.

        Raises:
            ValueError: If it cannot be read.
        """
        count = getattr(processor, "_get_num_multimodal_tokens", None)
        return 256 if count is None else int(count(image_sizes=[size[::-1]])["num_image_tokens"][0])

    def picture_size(self, processor: Any, size: tuple[int, int]) -> tuple[float, float]:
        """Width and height at which a picture enters the model, for `boxes: pixels`.

        Args:
            processor: The processor.
            size: Width and height of the picture.

        Raises:
            ValueError: If it cannot be read.
        """
        return size

"""How a model reads pictures beyond what its checkpoint says: chosen options, which an exported folder keeps."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.adapters import adapter_base
from embedrl.models.checkpoint_files import checkpoint_place
from embedrl.models.export_options import OPTIONS_FILE, read_options
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.vlm.families import FAMILIES
from embedrl.models.vlm.family import VLMFamily
from embedrl.models.vlm.loading import CURE, TINY
from embedrl.utils.public_names import public_path


@dataclass(frozen=True)
class PictureSettings:
    """The options.

    Attributes:
        image_pixels: Budget of a picture; None means what the processor says.
        image_settings: Options of the family's image processor.
        video_settings: Options of its video processor.
        family: Public name of the class that says what is different in the family; empty: as the model type says.
    """

    image_pixels: PixelBudget | None = None
    image_settings: Mapping[str, Any] = field(default_factory=dict)
    video_settings: Mapping[str, Any] = field(default_factory=dict)
    family: str = ""

    def over(self, stored: PictureSettings) -> PictureSettings:
        """These options, and for what they leave open those that a folder says."""
        return PictureSettings(
            self.image_pixels or stored.image_pixels,
            {**stored.image_settings, **self.image_settings},
            {**stored.video_settings, **self.video_settings},
            self.family or stored.family,
        )

    def plain(self) -> dict[str, Any]:
        """As `load_settings` reads them."""
        return asdict(self)

    def write_into(self, processor: Any, family: VLMFamily) -> None:
        """Make a processor read by these options.

        Args:
            processor: The family's processor.
            family: The family.

        Raises:
            ConfigError: If it has no such option.
        """
        if self.image_pixels is not None:
            family.set_pixels(processor, self.image_pixels)
        videos = getattr(processor, "video_processor", None)
        for flag, owner, values in (
            ("image_settings", processor.image_processor, self.image_settings),
            ("video_settings", videos if family.reads_video else None, self.video_settings),
        ):
            for name, value in values.items():
                if owner is None:
                    raise ConfigError(f"backbone.{flag}: this family reads the frames of a video as pictures")
                known = [key for key in type(owner).valid_kwargs.__annotations__ if hasattr(owner, key)]
                if not hasattr(owner, name) or name.startswith("_"):
                    close = difflib.get_close_matches(name, known) or sorted(known)
                    raise ConfigError(
                        f"backbone.{flag}.{name}: a {type(owner).__name__} has no such option, but {', '.join(close)}"
                    )
                setattr(owner, name, value)


def load_settings(path: str) -> PictureSettings:
    """What an exported folder says in its `embedrl_config.json`; of an adapter without one, what its base says.

    Args:
        path: Any checkpoint; one that is no export says nothing.

    Raises:
        CheckpointError: If that file is broken, or says what only another class can do.
    """
    if path.startswith(TINY):
        return PictureSettings()
    kind, options = read_options(checkpoint_place(path, CURE))
    if not kind:
        base = adapter_base(path)
        return load_settings(base) if base else PictureSettings()
    if others := [name for name in ("evidence_pixels", "frame_pixels") if options.get(name) is not None]:
        raise CheckpointError(f"{path}: trained with {' and '.join(others)}, which only {kind} reads: use that class")
    try:
        pixels = options.get("image_pixels")
        return PictureSettings(
            None if pixels is None else PixelBudget(**pixels),
            dict(options.get("image_settings") or {}),
            dict(options.get("video_settings") or {}),
            str(options.get("family") or ""),
        )
    except (TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}/{OPTIONS_FILE}: broken options ({error}): export it again") from error


def stored_family(path: str, name: str) -> VLMFamily:
    """The family that an exported folder names.

    A folder may be a stranger's: what it names is looked up among the known families and nowhere else.

    Args:
        path: The folder, for errors.
        name: Public name of its class.

    Raises:
        CheckpointError: If it is not among `FAMILIES`.
    """
    for family in (VLMFamily(), *FAMILIES.values()):
        if public_path(type(family)) == name:
            return family
    raise CheckpointError(
        f"{path}: trained with the family {name}, a class of your own: give it as backbone.family, or give the run's "
        ".ckpt instead of the exported folder"
    )

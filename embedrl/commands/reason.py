"""`embedrl reason`: a Reasoner writes the T-CoT of one input, and a picture shows its evidence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import torch

from embedrl.commands.export import load_module
from embedrl.data.images import ImageFile
from embedrl.data.video import list_frames, sample_frames
from embedrl.errors import CheckpointError, ConfigError, DataError
from embedrl.models.generator import Generator
from embedrl.models.open_reasoner import reasoner
from embedrl.tcot.chat import reasoning_chat
from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import Style
from embedrl.training.run_dir import find_checkpoint
from embedrl.types import Modality, Role, Side
from embedrl.utils.console import escaped
from embedrl.visualization.evidence import draw_evidence


def reason(
    checkpoint: str,
    text: str = "",
    image: Path | None = None,
    frames: Path | None = None,
    role: Literal["query", "target"] = "query",
    counterpart: Literal["text", "image", "video"] = "image",
    style: Style = "full",
    max_new_tokens: int = 512,
    out: Path | None = None,
    num_frames: int = 8,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Literal["float32", "bfloat16", "auto"] = "float32",
) -> None:
    """Write the T-CoT of one input, greedily; print it with what is wrong with it, and draw its evidence.

    Give a text, a picture, frames, or a text with one of them.

    Args:
        checkpoint: A Reasoner: a folder that `embedrl export` wrote, the folder or Hub name of a vision-language model,
            `embedrl:world_base`, or a `.ckpt` or run folder of `embedrl fit`.
        text: The input's text.
        image: A picture file.
        frames: A folder with the frames of a video.
        role: Whether the input searches, or is what others search for.
        counterpart: What is on the other side; only the prompt of a text query depends on it.
        style: The prompt: `full` explains the format; `brief` is for models that were trained on it, as the
            quickstart's.
        max_new_tokens: Maximum length of the T-CoT in tokens.
        out: Write a picture: boxes and key frames marked, the crops that an Embedder would see, the T-CoT.
        num_frames: Frames that are sampled from the folder.
        device: Where to compute; auto takes a GPU if there is one.
        dtype: Type of the weights; a `.ckpt` keeps its own.

    Raises:
        ConfigError: If there is no input, or a flag is out of range.
        DataError: If a file is missing or broken.
        CheckpointError: If the checkpoint cannot be read, or is no Reasoner's.
    """
    side = read_side(text, image, frames, num_frames)
    if max_new_tokens < 1:
        raise ConfigError(f"--max_new_tokens {max_new_tokens}: give 1 or more")
    if out is not None and out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(f"--out {out}: give a name that ends with .png, .jpg or .webp")
    target = _device(device)
    generator = load_reasoner(checkpoint, dtype).to(target)
    side = side.with_tcot(write(generator, side, Role(role), Modality(counterpart), style, max_new_tokens))
    read = parse(side.tcot, side.modality, len(side.frames) or None)
    lines = [side.tcot, "", "problems: none" if read.ok else f"problems: {len(read.problems)}"]
    lines += [f"  {problem.code}: {problem.message}" for problem in read.problems]
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_evidence(side, [f"{role}, written by {checkpoint}"]).save(out)
        lines.append(f"evidence: {out}")
    sys.stdout.write(escaped("\n".join(lines) + "\n"))


def read_side(text: str, image: Path | None, frames: Path | None, num_frames: int) -> Side:
    """The input; its files are opened once, so that errors come before the model is loaded.

    Raises:
        ConfigError: If nothing is given, or both a picture and frames.
        DataError: If a file is missing or broken; the message names the flag.
    """
    if not text.strip() and image is None and frames is None:
        raise ConfigError("nothing to reason about: give --text, --image or --frames")
    if image is not None and frames is not None:
        raise ConfigError("--image and --frames: a side has pictures or a video; give one of them")
    if num_frames < 1:
        raise ConfigError(f"--num_frames {num_frames}: give 1 or more")
    if image is not None and not image.exists():
        raise DataError(f"--image {image}: no such file")
    if frames is not None and not frames.is_dir():
        raise DataError(f"--frames {frames}: no such folder; give one that holds a video's frames as pictures")
    try:
        names = list_frames(frames) if frames is not None else []
        picked = sample_frames(len(names), num_frames) if names else []
        shots = tuple(ImageFile(str(Path(frames or "") / names[i])) for i in picked)
        images = () if image is None else (ImageFile(str(image)),)
        for source in (*images, *shots):
            source.load()
    except DataError as error:
        raise DataError(f"--{'frames' if image is None else 'image'}: {error}") from error
    return Side(text, images, shots)


def load_reasoner(checkpoint: str, dtype: Literal["float32", "bfloat16", "auto"] = "float32") -> Generator:
    """A Reasoner with its weights, on the CPU, in evaluation mode.

    Args:
        checkpoint: A folder in the format of transformers, a Hub name, `embedrl:world_base`, a `.ckpt`, or a folder of
            runs, whose newest `last.ckpt` is taken.
        dtype: Type of the weights of anything but a `.ckpt`.

    Raises:
        CheckpointError: If it cannot be read, or is no Reasoner's.
    """
    path = Path(checkpoint)
    if path.is_dir() and not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise CheckpointError(f"--checkpoint {path}: an adapter alone; export it without --adapter")
        path = _newest(path)
    if path.is_file() or path.suffix == ".ckpt":
        module: Any = load_module(path)
        if not hasattr(module, "generator"):
            raise CheckpointError(f"--checkpoint {path}: an Embedder's, which writes nothing; give a Reasoner's")
        return module.generator  # type: ignore[no-any-return]
    if (path / "modules.json").is_file():
        raise CheckpointError(f"--checkpoint {path}: an Embedder's, which writes nothing; give a Reasoner's")
    try:
        generator = reasoner(checkpoint, dtype)
        generator.build()
    except CheckpointError as error:
        raise CheckpointError(f"--checkpoint {error}") from error
    return generator.eval()


def _newest(folder: Path) -> Path:
    """The newest `last.ckpt` of a folder of runs."""
    try:
        return Path(find_checkpoint("last", folder))
    except CheckpointError as error:
        raise CheckpointError(
            f"--checkpoint {folder}: neither a model's folder (no config.json) nor a run's (no last.ckpt)"
        ) from error


def write(
    generator: Generator, side: Side, role: Role, counterpart: Modality, style: Style, max_new_tokens: int
) -> str:
    """The T-CoT of a side, written greedily.

    Args:
        generator: The Reasoner, built.
        side: The side.
        role: Whether it is the query or the target.
        counterpart: Modality of the other half.
        style: Style of the prompt.
        max_new_tokens: Longest T-CoT.
    """
    chat = reasoning_chat(side, role, counterpart, style)
    device = next(generator.parameters()).device
    inputs = {name: value.to(device) for name, value in generator.preprocessor().prompts([chat]).items()}
    return generator.generate(inputs, max_new_tokens)[0]


def _device(name: str) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("--device cuda: torch finds no GPU here; give cpu or auto")
    return torch.device("cuda" if name != "cpu" and available else "cpu")

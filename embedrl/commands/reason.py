"""`embedrl reason`: a Reasoner writes the T-CoT of one input, and a picture shows its evidence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from embedrl.data.images import ImageFile
from embedrl.data.video import list_frames, sample_frames
from embedrl.distributed.processes import Device, choose_device
from embedrl.errors import ConfigError, DataError
from embedrl.models.checkpoint_files import tell_if_of_the_world
from embedrl.models.generator import Generator
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.tcot.chat import reasoning_chat
from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import Style
from embedrl.tcot.schema import STOP
from embedrl.training.trained_model import load_reasoner
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
    device: Device = "auto",
    dtype: Literal["float32", "bfloat16", "auto"] = "float32",
    strict: bool = False,
) -> None:
    """Write the T-CoT of one input, greedily; print it with what is wrong with it, and draw its evidence.

    Give a text, a picture, frames, or a text with one of them. The exit code is 0 whatever the model wrote, unless
    `strict` asks for more. Models of the built-in world know that world alone; real pictures need a pretrained one.

    Args:
        checkpoint: A Reasoner: a `.ckpt` or the folder of a run of `embedrl fit`, whose newest `last.ckpt` is taken; a
            folder that `embedrl export` wrote; the folder or Hub name of a vision-language model, or
            `embedrl:world_base`.
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
        strict: End with exit code 1 if the T-CoT departs from the template.

    Raises:
        ConfigError: If there is no input, or a flag is out of range.
        DataError: If a file is missing or broken, or the T-CoT is malformed and `strict` is set.
        CheckpointError: If the checkpoint cannot be read, or is no Reasoner's.
    """
    side = read_side(text, image, frames, num_frames)
    if max_new_tokens < 1:
        raise ConfigError(f"--max_new_tokens {max_new_tokens}: give 1 or more")
    if out is not None and out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(f"--out {out}: give a name that ends with .png, .jpg or .webp")
    target = choose_device(device)
    generator = load_reasoner(checkpoint, dtype).to(target)
    if isinstance(generator, PolicyGenerator):
        tell_if_of_the_world(checkpoint, generator.processor.tokenizer)
    side = side.with_tcot(write(generator, side, Role(role), Modality(counterpart), style, max_new_tokens))
    read = parse(side.tcot, side.modality, len(side.frames) or None)
    lines = [side.tcot, "", "problems: none" if read.ok else f"problems: {len(read.problems)}"]
    lines += [f"  {problem.code}: {problem.message}" for problem in read.problems]
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_evidence(side, [f"{role}, written by {checkpoint}"]).save(out)
        lines.append(f"evidence: {out}")
    sys.stdout.write(escaped("\n".join(lines) + "\n"))
    if strict and not read.ok:
        raise DataError(f"--strict: the T-CoT departs from the template, {read.problems[0].message}")


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
    return generator.generate(inputs, max_new_tokens, stop=STOP)[0]

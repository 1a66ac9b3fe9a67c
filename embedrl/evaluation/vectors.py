"""A cache of vectors of sides by model, options and content; processes share the work, and it can be resumed.

```
<cache>/<key of the model>/model.json                what the key stands for
<cache>/<key of the model>/<key of the sides>.safetensors   the vectors of up to `shard_size` sides, in order
```

Token vectors (`LateInteraction`) lie behind one another, with the offsets of the sides beside them. A file holds a
checksum of its vectors: one whose disk has changed a bit is computed again. Sides that turned out to be bad have no
vector; the file's metadata say which and why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, distributed

from embedrl.data.collate import EncodeBatch, EncodeCollator, EncodeSample
from embedrl.data.inputs import Preprocessor
from embedrl.data.loader import Loader
from embedrl.data.on_bad import BadSample, OnBadMode
from embedrl.data.render import RenderOptions
from embedrl.data.side_dataset import encode_sample
from embedrl.distributed.collectives import gather_objects, world_size
from embedrl.errors import ConfigError, DataError, NonFiniteError
from embedrl.evaluation.identity import key_of, model_identity, render_identity
from embedrl.evaluation.shards import left_out_of, metadata_of, packed, read_shard, write_shard
from embedrl.inference.frozen_embedder import encode, frozen
from embedrl.metrics.ranking import Blocks
from embedrl.models.backbone import Backbone
from embedrl.tcot.store import content_hash
from embedrl.types import Side
from embedrl.utils.console import tell
from embedrl.utils.ragged import cat_rows


@dataclass(frozen=True)
class EncodeOptions:
    """How sides are embedded; the vectors do not depend on these options.

    Attributes:
        cache: Folder of the vectors; None means `vectors` in the output folder. Several evaluations may share one.
        batch_size: Sides that are loaded together.
        micro_batch_size: Sides that go through the backbone at once.
        shard_size: Sides in one file: at most this many are lost per process when a run is killed.
        num_workers: Processes that open and render pictures; 0 does it in the main process.
    """

    cache: Path | None = None
    batch_size: int = 64
    micro_batch_size: int = 32
    shard_size: int = 1024
    num_workers: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a number is out of range.
        """
        for flag in ("batch_size", "micro_batch_size", "shard_size"):
            if getattr(self, flag) < 1:
                raise ConfigError(f"--encode.{flag} is {getattr(self, flag)}: give 1 or more")
        if self.num_workers < 0:
            raise ConfigError(f"--encode.num_workers is {self.num_workers}: give 0 or more")


@dataclass(frozen=True)
class _Shard:
    """Sides whose vectors lie in one file."""

    path: Path
    sides: range


class VectorCache:
    """Embeds sides that were not embedded before.

    The key of a side covers its text, the bytes of its pictures and its T-CoT; the key of the model covers its weights,
    options and code. After a change to any of them, vectors are computed again.

    Args:
        folder: Where vectors are kept.
        backbone: The Embedder.
        options: What it reads of a side.
        device: Where to compute.
        encode_options: How to compute.
        rank: Rank of this process.

    Attributes:
        identity: What the vectors depend on besides the sides.
        computed: Number of sides that this process embedded.
        dimension: Length of a vector; 0 before the first is read.
    """

    def __init__(
        self,
        folder: Path,
        backbone: Backbone,
        options: RenderOptions,
        device: torch.device,
        encode_options: EncodeOptions = EncodeOptions(),
        rank: int = 0,
    ) -> None:
        self.backbone = frozen(backbone, device)
        self.options, self.device, self.encode_options, self.rank = options, device, encode_options, rank
        self.identity = {"model": model_identity(self.backbone, device), "render": render_identity(options)}
        self.folder = folder / key_of(self.identity)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.computed = self.dimension = 0
        if rank == 0:
            write_shard(self.folder / "model.json", json.dumps(self.identity, indent=1).encode())

    def hashes(self, sides: Sequence[Side], where: str = "", bad: dict[int, BadSample] | None = None) -> list[str]:
        """Hash of each side's content, T-CoT left out; all processes call together.

        Args:
            sides: The sides.
            where: Their name in errors.
            bad: Where to put the sides without a hash, by position: a picture's file is missing. None stops at the
                first.

        Raises:
            DataError: If a picture's file is missing and `bad` is None.
        """
        mine: list[tuple[int, str, BadSample | None]] = []
        for i in range(self.rank, len(sides), world_size()):
            try:
                mine.append((i, content_hash(sides[i]), None))
            except DataError as error:
                named = DataError(f"{where} {i}: {error}".strip(), error.cause)
                if bad is None:
                    raise named from error
                mine.append((i, "", _bad_side(named, f"{where} {i}")))
        everything = sorted(gather_objects(mine), key=lambda item: item[0])
        if bad is not None:
            bad |= {i: one for i, _, one in everything if one is not None}
        return [digest for _, digest, _ in everything]

    def embed(
        self,
        sides: Sequence[Side],
        hashes: Sequence[str],
        where: str,
        bad: dict[int, BadSample] | None = None,
        places: Sequence[int] | None = None,
    ) -> Blocks:
        """The vectors of sides, from the cache or computed now; all processes call together.

        Args:
            sides: What to embed, at least one.
            hashes: What `hashes` returned.
            where: Their name in errors, such as `vqa/query`.
            bad: Where to put bad sides by position, which have no vector; None stops at the first.
            places: The number of each side in errors; None means its position.

        Returns:
            The vectors of the good sides, to be read block by block.

        Raises:
            DataError: If a side cannot be rendered or processed and `bad` is None.
            NonFiniteError: Naming a side whose vector is NaN or infinite.
        """
        shards = list(self._shards(sides, hashes))
        absent = self._absent(shards) if self.rank == 0 else set()
        absent = set(gather_objects(sorted(absent)))  # rank 0's: others may already be writing
        todo = list({shard.path.name: shard for shard in shards if shard.path.name in absent}.values())
        names = [f"{where} {place}" for place in (range(len(sides)) if places is None else places)]
        self._compute(todo[self.rank :: world_size()], sides, names, "raise" if bad is None else "skip")
        if world_size() > 1:
            distributed.barrier()
        self.dimension = read_shard(shards[0].path, len(shards[0].sides)).shape[-1]
        without = _bad_of(shards, names)
        if bad is None and without:
            raise DataError(next(iter(without.values())).message)
        if bad is not None:
            bad |= without
        return Blocks(len(sides) - len(without), lambda: (read_shard(shard.path, len(shard.sides)) for shard in shards))

    @staticmethod
    def _absent(shards: Sequence[_Shard]) -> set[str]:
        """The names of files that are not there, or do not hold what was written to them, which is said."""
        absent, broken = set(), []
        for shard in {shard.path: shard for shard in shards}.values():
            if shard.path.is_file():
                try:
                    read_shard(shard.path, len(shard.sides))
                    continue
                except DataError as error:
                    broken.append(str(error))
            absent.add(shard.path.name)
        if broken:
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            tell(f"{broken[0]}{more}: computed again")
        return absent

    def _shards(self, sides: Sequence[Side], hashes: Sequence[str]) -> Iterator[_Shard]:
        for start in range(0, len(sides), self.encode_options.shard_size):
            part = range(start, min(start + self.encode_options.shard_size, len(sides)))
            seen = json.dumps([(hashes[i], sides[i].tcot) for i in part])
            name = hashlib.sha256(seen.encode()).hexdigest()[:32]
            yield _Shard(self.folder / f"{name}.safetensors", part)

    def _compute(
        self, shards: Sequence[_Shard], sides: Sequence[Side], names: Sequence[str], on_bad: OnBadMode
    ) -> None:
        size = self.encode_options.batch_size
        batches = [shard.sides[i : i + size] for shard in shards for i in range(0, len(shard.sides), size)]
        if not batches:
            return
        preprocessor = self.backbone.preprocessor()
        loader: Loader[EncodeBatch] = Loader(
            _Rendered(sides, batches, self.options, names, preprocessor, on_bad),  # type: ignore[arg-type]
            batch_size=None,
            collate_fn=EncodeCollator(preprocessor, self.encode_options.micro_batch_size, on_bad=on_bad),
            generator=torch.Generator(),
            num_workers=self.encode_options.num_workers,
        )
        loaded = iter(loader)
        for shard in shards:
            vectors: list[Tensor] = []
            left_out: dict[int, BadSample] = {}
            while (done := sum(map(len, vectors))) < len(shard.sides):
                batch = next(loaded)
                vectors.append(self._vectors(batch, names, shard.sides[done:]))
                left_out |= {done + row: one for row, one in batch.bad.items()}
            whole = cat_rows(vectors)
            if left_out:
                whole = whole[[row for row in range(len(whole)) if row not in left_out]]
            content = packed(whole)
            write_shard(shard.path, save(content, metadata_of(content, left_out)))

    @torch.no_grad()
    def _vectors(self, batch: EncodeBatch, names: Sequence[str], positions: range) -> Tensor:
        """Vectors of a batch whose sides begin at `positions`."""
        vectors = encode(self.backbone, batch.micro_batches, batch.order, self.device).float().cpu().contiguous()
        infinite = (~torch.isfinite(vectors).flatten(1).all(1)).nonzero().flatten().tolist()
        infinite = [row for row in infinite if row not in batch.bad]
        if infinite:
            raise NonFiniteError(
                f"{names[positions[infinite[0]]]}: the vector is NaN or infinite ({len(infinite)} of its batch): "
                "the model diverged, or computes in a type that overflows"
            )
        self.computed += len(vectors) - len(batch.bad)
        return vectors


class _Rendered:
    """Batches of rendered sides, for `Loader(batch_size=None)`."""

    def __init__(
        self,
        sides: Sequence[Side],
        batches: Sequence[range],
        options: RenderOptions,
        names: Sequence[str],
        preprocessor: Preprocessor,
        on_bad: OnBadMode,
    ) -> None:
        self.sides, self.batches, self.options, self.names = sides, batches, options, names
        self.on_bad = on_bad
        # T-CoTs that need not follow the format need not fit either.
        self.fitting = preprocessor if options.on_bad_tcot == "lenient" else None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[EncodeSample]:
        samples = []
        for position in self.batches[index]:
            side, name = self.sides[position], self.names[position]
            samples.append(encode_sample(side, self.options, name, self.fitting, [], self.on_bad))
        return samples


def _bad_side(error: DataError, name: str) -> BadSample:
    task, _, side = name.rpartition("/")
    return BadSample.of(error, task, side)


def _bad_of(shards: Sequence[_Shard], names: Sequence[str]) -> dict[int, BadSample]:
    """The bad sides in files, by position."""
    bad = {}
    for shard in shards:
        for row, (cause, what) in left_out_of(shard.path).items():
            name = names[shard.sides[row]]
            bad[shard.sides[row]] = _bad_side(DataError(f"{name}: {what}", cause), name)
    return bad

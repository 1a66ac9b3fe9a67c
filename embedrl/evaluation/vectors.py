"""A cache of vectors of sides by model, options and content; processes share the work, and it can be resumed.

```
<cache>/<key of the model>/model.json                what the key stands for
<cache>/<key of the model>/<key of the sides>.safetensors   the vectors of up to `shard_size` sides, in order
```

A file holds a checksum of its vectors: one whose disk has changed a bit is computed again.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, distributed

from embedrl.data.collate import EncodeCollator, EncodeSample
from embedrl.data.inputs import Preprocessor
from embedrl.data.lenient_render import encode_chat
from embedrl.data.loader import Loader
from embedrl.data.render import RenderOptions
from embedrl.distributed.collectives import gather_objects, world_size
from embedrl.errors import ConfigError, DataError, NonFiniteError, unreadable
from embedrl.evaluation.identity import key_of, model_identity, render_identity
from embedrl.inference.frozen_embedder import FrozenEmbedder, encode
from embedrl.metrics.ranking import Blocks
from embedrl.models.backbone import Backbone
from embedrl.tcot.store import content_hash
from embedrl.types import Side
from embedrl.utils.atomic_files import replacing
from embedrl.utils.console import tell

CHECKSUM = "crc32"


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
        self.backbone = FrozenEmbedder(backbone, options).build(device)
        self.options, self.device, self.encode_options, self.rank = options, device, encode_options, rank
        self.identity = {"model": model_identity(self.backbone, device), "render": render_identity(options)}
        self.folder = folder / key_of(self.identity)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.computed = 0
        if rank == 0:
            _write(self.folder / "model.json", json.dumps(self.identity, indent=1).encode())

    def hashes(self, sides: Sequence[Side]) -> list[str]:
        """Hash of each side's content, T-CoT left out; all processes call together."""
        mine = range(self.rank, len(sides), world_size())
        return [digest for _, digest in sorted(gather_objects([(i, content_hash(sides[i])) for i in mine]))]

    def embed(self, sides: Sequence[Side], hashes: Sequence[str], where: str) -> Blocks:
        """The vectors of sides, from the cache or computed now; all processes call together.

        Args:
            sides: What to embed, at least one.
            hashes: What `hashes` returned.
            where: Their name in errors, such as `vqa/query`.

        Returns:
            The vectors, to be read block by block.

        Raises:
            DataError: If a side cannot be rendered.
            NonFiniteError: Naming a side whose vector is NaN or infinite.
        """
        shards = list(self._shards(sides, hashes))
        absent = self._absent(shards) if self.rank == 0 else set()
        absent = set(gather_objects(sorted(absent)))  # rank 0's: others may already be writing
        todo = list({shard.path.name: shard for shard in shards if shard.path.name in absent}.values())
        self._compute(todo[self.rank :: world_size()], sides, where)
        if world_size() > 1:
            distributed.barrier()
        return Blocks(len(sides), lambda: (read_shard(shard.path, len(shard.sides)) for shard in shards))

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

    def _compute(self, shards: Sequence[_Shard], sides: Sequence[Side], where: str) -> None:
        size = self.encode_options.batch_size
        batches = [shard.sides[i : i + size] for shard in shards for i in range(0, len(shard.sides), size)]
        if not batches:
            return
        preprocessor = self.backbone.preprocessor()
        loader: Loader[object] = Loader(
            _Rendered(sides, batches, self.options, where, preprocessor),  # type: ignore[arg-type]
            batch_size=None,
            collate_fn=EncodeCollator(preprocessor, self.encode_options.micro_batch_size),
            generator=torch.Generator(),
            num_workers=self.encode_options.num_workers,
        )
        loaded = iter(loader)
        for shard in shards:
            vectors: list[Tensor] = []
            while sum(map(len, vectors)) < len(shard.sides):
                vectors.append(self._vectors(next(loaded), where, shard.sides[sum(map(len, vectors)) :]))
            whole = torch.cat(vectors)
            _write(shard.path, save({"vectors": whole}, {CHECKSUM: checksum(whole)}))

    @torch.no_grad()
    def _vectors(self, batch: object, where: str, positions: range) -> Tensor:
        """Vectors of a batch whose sides begin at `positions`."""
        vectors = encode(self.backbone, batch.micro_batches, batch.order, self.device).float().cpu().contiguous()  # type: ignore[attr-defined]
        bad = (~torch.isfinite(vectors).all(1)).nonzero().flatten().tolist()
        if bad:
            raise NonFiniteError(
                f"{where} {positions[bad[0]]}: the vector is NaN or infinite ({len(bad)} of its batch): "
                "the model diverged, or computes in a type that overflows"
            )
        self.computed += len(vectors)
        return vectors


class _Rendered:
    """Batches of rendered sides, for `Loader(batch_size=None)`."""

    def __init__(
        self,
        sides: Sequence[Side],
        batches: Sequence[range],
        options: RenderOptions,
        where: str,
        preprocessor: Preprocessor,
    ) -> None:
        self.sides, self.batches, self.options, self.where = sides, batches, options, where
        # T-CoTs that need not follow the format need not fit either.
        self.fitting = preprocessor if options.on_bad_tcot == "lenient" else None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[EncodeSample]:
        samples = []
        for position in self.batches[index]:
            name = f"{self.where} {position}"
            samples.append(EncodeSample(encode_chat(self.sides[position], self.options, name, self.fitting), [], name))
        return samples


def read_shard(path: Path, rows: int) -> Tensor:
    """The vectors of one file, `[rows, dim]`.

    Raises:
        DataError: If the file is broken, or holds other vectors than were written to it.
    """
    with unreadable(f"{path}: broken vectors"), safe_open(path, framework="pt") as file:
        vectors: Tensor = file.get_tensor("vectors")
        written = (file.metadata() or {}).get(CHECKSUM)
    if vectors.dtype != torch.float32 or vectors.ndim != 2 or len(vectors) != rows:
        kind = f"{str(vectors.dtype).removeprefix('torch.')} {list(vectors.shape)}"
        raise DataError(f"{path}: broken vectors ({kind}, not float32 [{rows}, ...])")
    if written != checksum(vectors):
        raise DataError(f"{path}: broken vectors ({'without a' if written is None else 'another'} checksum)")
    return vectors


def checksum(vectors: Tensor) -> str:
    """The CRC-32 of a tensor's bytes; it finds every change of a few bits."""
    return f"{zlib.crc32(vectors.contiguous().numpy().data):08x}"


def _write(path: Path, content: bytes) -> None:
    with replacing(path, sync=True, shared=True) as part:
        part.write_bytes(content)

"""safetensors files of a model directory: lazy reading with every fault named, and writing in bounded shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from athanor.errors import AthanorError
from athanor.files import read_json, write_json
from athanor.model.decoder import FirstValues
from athanor.model.hf_weights import Link

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
#: As transformers shards by default, so that tools that fetch or map one file at a time stay within memory.
MAX_SHARD_BYTES = 5_000_000_000

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SHOWN = 8
_REMAP_BYTES = 128_000_000


class WeightFiles:
    """The tensors of a directory by name. Opening checks every header; a truncated or missing shard is named."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of = self._read_map()
        self._open: dict[str, Any] = {}
        self._mapped_bytes = 0
        for file in sorted(set(self._file_of.values())):
            self._check(file)

    def _read_map(self) -> dict[str, str]:
        index = self.folder / INDEX
        if index.exists():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise AthanorError("no weight_map in the index", where=str(index), fix="copy the checkpoint again")
            return weight_map
        if not (self.folder / WEIGHTS).exists():
            pickled = sorted(p.name for p in self.folder.glob("*.bin"))
            fix = "convert the .bin files to safetensors" if pickled else f"give a folder with {WEIGHTS} or {INDEX}"
            raise AthanorError("no safetensors weights", where=str(self.folder), fix=fix)
        return dict.fromkeys(self._handle(WEIGHTS).keys(), WEIGHTS)

    def _handle(self, file: str) -> Any:
        path = self.folder / file
        if not path.exists():
            raise AthanorError("shard is missing", where=str(path), fix="copy the checkpoint again")
        try:
            return safe_open(path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise AthanorError(
                f"damaged safetensors file: {error}", where=str(path), fix="copy the checkpoint again"
            ) from error

    def _check(self, file: str) -> None:
        held = set(self._handle(file).keys())
        listed = {name for name, holder in self._file_of.items() if holder == file}
        if absent := sorted(listed - held):
            raise AthanorError(f"shard lacks {named(absent)}", where=str(self.folder / file), fix="copy it again")

    def names(self) -> set[str]:
        """All tensor names."""
        return set(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape, from the header."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype; AthanorError when it is no floating-point type that weights have."""
        stored = self._slice(name).get_dtype()
        if stored not in _DTYPES:
            raise AthanorError(
                f"{name} is stored as {stored}", where=str(self.folder), fix=f"supported: {', '.join(_DTYPES)}"
            )
        return _DTYPES[stored]

    def _slice(self, name: str) -> Any:
        return self._opened(name).get_slice(name)

    def _opened(self, name: str) -> Any:
        file = self._file_of[name]
        if file not in self._open:
            self._open[file] = self._handle(file)
        return self._open[file]

    def get(self, name: str) -> torch.Tensor:
        """The tensor, on the CPU (it may be a view of the mapped file: copy it)."""
        tensor: torch.Tensor = self._opened(name).get_tensor(name)
        self._mapped_bytes += tensor.nbytes
        if self._mapped_bytes > _REMAP_BYTES:
            # Pages of a mapping that were read stay resident as long as it lives: begin a new one now and then.
            self._open.clear()
            self._mapped_bytes = 0
        return tensor


def named(names: list[str]) -> str:
    """A list of names for a message, shortened after some with their count."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def check_tensors(files: WeightFiles, links: list[Link], model: torch.nn.Module, tied: bool) -> None:
    """Compare names and shapes of the files with the model's (on any device); AthanorError names every fault."""
    meta = {name: torch.empty_like(t, device="meta") for name, t in model.state_dict().items()}
    wanted = {
        name: tuple(t.shape)
        for link in links
        for name, t in zip(link.theirs, link.to_theirs([meta[n] for n in link.ours]), strict=True)
    }
    have = files.names()
    missing = sorted(wanted.keys() - have)
    extra = sorted(n for n in have - wanted.keys() if not _derived(n, files, tied))
    wrong = [
        f"{name} {list(files.shape(name))} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in have and files.shape(name) != shape
    ]
    faults = [f"{what}: {named(n)}" for what, n in (("missing", missing), ("unexpected", extra), ("shape", wrong)) if n]
    if faults:
        raise AthanorError(
            f"weights do not match config.json; {'; '.join(faults)}",
            where=str(files.folder),
            fix="correct config.json or use the weights that belong to it",
        )


def _derived(name: str, files: WeightFiles, tied: bool) -> bool:
    """A stored tensor that says nothing new: RoPE frequencies of old files, the head of a tied model (if equal)."""
    if name.endswith("rotary_emb.inv_freq"):
        return True
    embedding = "model.embed_tokens.weight"
    if not (tied and name == "lm_head.weight" and embedding in files.names()):
        return False
    same = torch.equal(files.get(name), files.get(embedding))
    if not same:
        raise AthanorError(
            "lm_head.weight differs from the embedding, and config.json ties them",
            where=str(files.folder),
            fix="set tie_word_embeddings to false",
        )
    return True


def read_tensors(
    files: WeightFiles,
    links: Iterable[Link],
    dtype: torch.dtype,
    device: torch.device | str,
    keep: Set[str] = frozenset(),
) -> Iterator[tuple[str, torch.Tensor]]:
    """(our name, tensor) one after the other, each in memory of its own; only one link's file tensors are held.

    Converted to ``dtype``, except those in ``keep``.
    """
    for link in links:
        for name in link.theirs:
            files.dtype(name)
        stored = [files.get(name) for name in link.theirs]
        storages = {t.untyped_storage().data_ptr() for t in stored}
        for name, tensor in zip(link.ours, link.to_ours(stored), strict=True):
            moved = tensor.to(device=device, dtype=tensor.dtype if name in keep else dtype)
            shared = moved.untyped_storage().data_ptr() in storages
            yield name, moved.clone(memory_format=torch.contiguous_format) if shared else moved.contiguous()


def write_tensors(
    state: Mapping[str, torch.Tensor],
    links: list[Link],
    folder: Path,
    dtype: torch.dtype | None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    keep: Set[str] = frozenset(),
    values: FirstValues | None = None,
) -> None:
    """Write ``state`` (our names) as one safetensors file, or as shards with an index when larger than the limit.

    Stored as ``dtype`` (None: as they are), except those in ``keep``. Only one shard is converted at a time. With
    ``values``, ``state`` gives names, shapes and dtypes only, and the tensors of one shard are asked for at a time.
    """
    shards = list(_plan(state, links, dtype, max_shard_bytes))
    total = 0
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors: dict[str, torch.Tensor] = {}
        for link in shard:
            part = {name: state[name] for name in link.ours}
            held = part if values is None else dict(values({name: tensor.shape for name, tensor in part.items()}))
            tensors |= _converted(held, link, None if keep & set(link.ours) else dtype)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        total += sum(t.nbytes for t in tensors.values())
        weight_map |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _converted(state: Mapping[str, torch.Tensor], link: Link, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    theirs = link.to_theirs([state[n].detach() for n in link.ours])
    return {
        name: t.to(device="cpu", dtype=dtype or t.dtype).contiguous()
        for name, t in zip(link.theirs, theirs, strict=True)
    }


def _plan(
    state: Mapping[str, torch.Tensor], links: list[Link], dtype: torch.dtype | None, limit: int
) -> Iterator[list[Link]]:
    """Consecutive links whose parameters fill at most ``limit`` bytes (one link may be larger alone)."""
    shard: list[Link] = []
    size = 0
    for link in links:
        n_bytes = sum(state[n].numel() * (dtype or state[n].dtype).itemsize for n in link.ours)
        if shard and size + n_bytes > limit:
            yield shard
            shard, size = [], 0
        shard.append(link)
        size += n_bytes
    yield shard

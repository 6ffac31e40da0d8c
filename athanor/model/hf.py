"""Model directories in Hugging Face's format: what every stage takes and leaves.

``config.json``, ``generation_config.json``, ``model*.safetensors`` and the tokenizer's files. A model that a family of
:data:`~athanor.model.hf_families.FAMILIES` describes is written as that family and runs in transformers and vLLM; any
other model is written in Athanor's own names (``model_type: athanor``), so that no finished training run is ever lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from athanor.errors import AthanorError
from athanor.files import atomic_dir, read_json, write_json
from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.hf_config import config_from_hf, config_to_hf, native_config
from athanor.model.hf_families import choose_family, family_of
from athanor.model.hf_shards import MAX_SHARD_BYTES, WeightFiles, check_tensors, read_tensors, write_tensors
from athanor.model.hf_weights import Link, family_links, native_links

__all__ = [
    "config_from_hf",
    "config_to_hf",
    "export_model",
    "import_model",
    "load_model_dir",
    "open_model_dir",
    "read_config",
    "save_model_dir",
]

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _read_object(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if not isinstance(value, dict):
        raise AthanorError("not an object", where=str(file), fix="copy the file again")
    return value


def _read_json_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise AthanorError(
            "no such model directory", where=str(path), fix="give a local folder with config.json and safetensors"
        )
    if not (path / CONFIG).exists():
        raise AthanorError("no config.json: not a model directory", where=str(path), fix="give the folder that has it")
    return _read_object(path / CONFIG)


def _generation(path: Path) -> dict[str, Any]:
    return _read_object(path / GENERATION) if (path / GENERATION).exists() else {}


def read_config(path: str | Path) -> ModelConfig:
    """The :class:`ModelConfig` of a model directory; end-of-text ids from generation_config.json if it has them."""
    path = Path(path)
    config = config_from_hf(_read_json_config(path), where=str(path / CONFIG))
    eos = _generation(path).get("eos_token_id")
    return config if eos is None else config.model_copy(update={"eos_token_id": eos})


def load_model_dir(
    path: str | Path, dtype: torch.dtype | None = torch.float32, device: torch.device | str = "cpu"
) -> Decoder:
    """Build the decoder of a model directory with its weights as ``dtype`` (None: as stored) on ``device``.

    Built on the meta device and filled tensor by tensor, so memory holds one copy. Missing, unexpected and mis-shaped
    tensors, damaged shards and unsupported architectures raise AthanorError with their names.
    """
    model = open_model_dir(path, dtype, device)
    assert model.first_values is not None
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.load_state_dict(dict(model.first_values(shapes)), strict=True, assign=True)
    model.first_values = None
    _fill_counters(model, device)
    return model


def open_model_dir(
    path: str | Path, dtype: torch.dtype | None = torch.float32, device: torch.device | str = "cpu"
) -> Decoder:
    """The decoder of a model directory on the meta device, checked as by :func:`load_model_dir`; its ``first_values``
    read the tensors (in the order of the files' links), converted to ``dtype`` and on ``device``."""
    path = Path(path)
    hf, config = _read_json_config(path), read_config(path)
    with torch.device("meta"):
        model = Decoder(config)
    files = WeightFiles(path)
    links = _links_of(hf, config, model, files, path)
    check_tensors(files, links, model, config.tie_word_embeddings)
    stored, buffers = dtype or files.dtype(links[0].theirs[0]), _buffers(model)
    for param in model.parameters():
        param.data = param.data.to(stored)  # buffers have their own

    def read(shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, torch.Tensor]]:
        wanted = [link for link in links if not shapes.keys().isdisjoint(link.ours)]
        for name, tensor in read_tensors(files, wanted, stored, device, keep=buffers):
            if name in shapes:
                yield name, tensor

    model.first_values = read
    return model


def _links_of(hf: Mapping[str, Any], config: ModelConfig, model: Decoder, files: WeightFiles, path: Path) -> list[Link]:
    family = family_of(hf, str(path / CONFIG))
    if family is None:
        return native_links(model.state_dict())
    fused = any(name.endswith(".experts.gate_up_proj") for name in files.names())
    return family_links(config, family, fused)


def _buffers(model: Decoder) -> set[str]:
    """Tensors that keep their dtype: the bias of loss-free routing moves in steps that bfloat16 would lose."""
    return {name.replace("_orig_mod.", "") for name, _ in model.named_buffers()}


def _fill_counters(model: Decoder, device: torch.device | str) -> None:
    """Buffers that are no part of a saved model (counters of the current step) begin at zero."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, torch.zeros_like(buffer, device=device))


def save_model_dir(
    model: Decoder,
    path: str | Path,
    tokenizer_files_from: str | Path | None = None,
    extra_config: Mapping[str, Any] | None = None,
    *,
    family: str | None = None,
    dtype: torch.dtype | None = None,
    generation: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> str:
    """Write ``model`` as a model directory, atomically; returns its ``model_type`` (``athanor`` when no family fits).

    A model on the meta device is written from its ``first_values``, of which one file's are held at a time.
    ``dtype`` None stores the parameters as they are. ``extra_config`` goes into config.json at the top level. An
    existing directory is replaced as a whole; its other files (tokenizer, notes) come along. ``family`` forces one.
    ``generation``: sampling defaults for generation_config.json, which always has the model's own token ids.
    """
    path = Path(path)
    model = getattr(model, "_orig_mod", model)
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in model.state_dict().items()}
    hf, links = _layout(model.config, family, state)
    stored = str(dtype or next(iter(state.values())).dtype).removeprefix("torch.")
    hf |= {"dtype": stored, "torch_dtype": stored, **(extra_config or {})}
    if tokenizer_files_from is not None:
        check_vocabulary(Path(tokenizer_files_from), model.config.vocab_size)
    _check_replaceable(path)
    try:
        with atomic_dir(path) as folder:
            _carry_over(path, folder)
            if tokenizer_files_from is not None:
                _copy_tokenizer(Path(tokenizer_files_from), folder)
            write_tensors(state, links, folder, dtype, max_shard_bytes, _buffers(model), model.first_values)
            ids = {key: hf[key] for key in _IDS if hf.get(key) is not None}
            write_json(folder / GENERATION, {**(generation or {}), **ids})
            write_json(folder / CONFIG, hf)
    except (OSError, SafetensorError) as error:
        raise AthanorError(
            f"model not written: {error}", where=str(path), fix="free disk space; what was there before is unchanged"
        ) from error
    return str(hf["model_type"])


def _layout(
    config: ModelConfig, family: str | None, state: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], list[Link]]:
    """config.json and links of the family (``family``, or the one that fits), or of Athanor's own format."""
    try:
        chosen = choose_family(config, family)
    except AthanorError as error:
        if family is not None:
            raise
        return native_config(config, error.what), native_links(state)
    links = family_links(config, chosen)
    if (held := {n for link in links for n in link.ours}) != state.keys():
        raise RuntimeError(f"{chosen.architecture} does not cover {sorted(held ^ state.keys())}")
    return config_to_hf(config, chosen.model_type), links


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".safetensors.index.json")) or name in (CONFIG, GENERATION)


def _check_replaceable(path: Path) -> None:
    """Refuse to replace a file, or a folder that holds other folders and no model: that is a slip of the pen."""
    if path.exists() and not path.is_dir():
        raise AthanorError("is a file, not a folder", where=str(path), fix="give the name of a model directory")
    if path.is_dir() and not (path / CONFIG).exists() and any(p.is_dir() for p in path.iterdir()):
        raise AthanorError(
            "exists, holds other folders and is no model directory", where=str(path), fix="give a new folder name"
        )


def _carry_over(old: Path, new: Path) -> None:
    """Bring everything but the old model itself into the folder that replaces it."""
    for item in old.iterdir() if old.is_dir() else ():
        if item.is_dir():
            shutil.copytree(item, new / item.name, symlinks=True)
        elif not _is_weights(item.name):
            shutil.copy2(item, new / item.name)


def _copy_tokenizer(source: Path, folder: Path) -> None:
    files = [source / name for name in TOKENIZER_FILES if (source / name).exists()]
    if not files:
        raise AthanorError("no tokenizer files", where=str(source), fix="give a folder with tokenizer.json")
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)  # never mix two tokenizers
    for file in files:
        shutil.copy2(file, folder / file.name)


def check_vocabulary(folder: Path, vocab_size: int) -> None:
    """AthanorError when ``folder``'s tokenizer.json has ids that a model of ``vocab_size`` embeddings cannot take."""
    if not (folder / "tokenizer.json").exists():
        return
    tokenizer = read_json(folder / "tokenizer.json")
    vocab = tokenizer.get("model", {}).get("vocab", {})
    ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    added = [token["id"] for token in tokenizer.get("added_tokens", [])]
    if (highest := max([*ids, *added], default=-1)) >= vocab_size:
        raise AthanorError(
            f"the tokenizer's highest id is {highest}, the model has {vocab_size} embeddings",
            where=str(folder / "tokenizer.json"),
            fix="use the tokenizer that the model was trained with",
        )


def _convert(src: Path, out: Path, family: str | None, dtype: torch.dtype | None) -> str:
    model = load_model_dir(src, dtype=dtype)
    has_tokenizer = any((src / name).exists() for name in TOKENIZER_FILES)
    generation = {key: value for key, value in _generation(src).items() if not key.startswith("_")}
    return save_model_dir(model, out, src if has_tokenizer else None, family=family, generation=generation)


def import_model(src: str | Path, out: str | Path, dtype: torch.dtype | None = None) -> ModelConfig:
    """Check a checkpoint of a supported family in full and write it as a ModelDir (tokenizer files too).

    ``dtype`` None keeps the stored one. The family stays the same, so the result still loads in transformers.
    """
    src = Path(src)
    family = family_of(_read_json_config(src), str(src / CONFIG))
    _convert(src, Path(out), family.model_type if family else None, dtype)
    return read_config(out)


def export_model(src: str | Path, out: str | Path, family: str | None = None, dtype: torch.dtype | None = None) -> str:
    """Write a ModelDir as a Hugging Face family and return its ``model_type``; AthanorError when none can hold it.

    ``family``: a ``model_type`` or architecture name; None chooses. ``dtype`` None keeps the stored one.
    """
    chosen = choose_family(read_config(src), family)
    return _convert(Path(src), Path(out), chosen.model_type, dtype)

"""``athanor import`` and ``athanor export``: model directories to and from Hugging Face families."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from athanor.commands.common import ModelArg, big

if TYPE_CHECKING:
    import torch


class DType(StrEnum):
    """How weights are written."""

    stored = "stored"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


DTypeOpt = Annotated[DType, typer.Option("--dtype", help="Write the weights as this (stored: as they are).")]
TargetArg = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add both commands to the command line."""
    app.command("import")(import_)
    app.command("export")(export)


def import_(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Checkpoint folder.", show_default=False)],
    out: TargetArg,
    dtype: DTypeOpt = DType.stored,
) -> None:
    """Check a Hugging Face checkpoint in full and write it as a model directory of ours (same family)."""
    from athanor.model.hf import import_model
    from athanor.model.params import count_params

    config = import_model(source, out, dtype=_torch_dtype(dtype))
    shape = f"{config.num_hidden_layers} layers × {config.hidden_size}"
    typer.echo(f"wrote {out}: {shape}, {big(count_params(config))} parameters")


def export(
    model: ModelArg,
    out: TargetArg,
    family: Annotated[
        str | None, typer.Option("--family", help="llama, qwen2, qwen3, mistral, glm4, …; default: the one that fits.")
    ] = None,
    dtype: DTypeOpt = DType.stored,
) -> None:
    """Write a model directory as a Hugging Face family that transformers and vLLM load without custom code."""
    from athanor.model.hf import export_model

    written = export_model(model, out, family, dtype=_torch_dtype(dtype))
    typer.echo(f"wrote {out} as {written}")


def _torch_dtype(dtype: DType) -> torch.dtype | None:
    import torch

    names = {DType.fp32: torch.float32, DType.bf16: torch.bfloat16, DType.fp16: torch.float16}
    return names.get(dtype)

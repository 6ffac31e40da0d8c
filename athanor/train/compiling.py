"""``torch.compile`` where it pays: the blocks, which are most of the time and share one graph."""

from __future__ import annotations

import os
import shutil

import torch

from athanor.model.decoder import Decoder

NO_COMPILER = "no C++ compiler (g++, clang++ or $CXX) on this machine"


def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile would call for a CPU, or None."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX") or "g++", "g++", "clang++"))), None)


def compile_blocks(model: Decoder, device: torch.device) -> bool:
    """Compile every block and the final norm in place, a graph a batch shape; False where there is no compiler for it.

    ``dynamic=False``: otherwise the code would depend on which shapes came before, and a resumed run would not repeat
    the bits of the unbroken one. The number of documents is no shape in this sense: it is marked dynamic at its source.
    """
    if device.type == "cpu" and cpp_compiler() is None:
        return False
    for part in (*model.layers, model.final_norm):
        part.compile(dynamic=False)
    return True

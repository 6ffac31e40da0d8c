"""Real text that every machine has, as bytes: the installed Python's own standard library, split once and for all.

Byte = token (vocabulary 256), so that no tokenizer stands between the text and the norms that the laboratory looks at.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from athanor.data.types import Batch
from athanor.errors import AthanorError
from athanor.model.decoder import Decoder

#: One file in this many (by the hash of its path) is held out.
HOLDOUT_ONE_IN = 16
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__", "idle_test"})
#: The document marker between files: a byte that UTF-8 text never holds.
SEPARATOR = b"\xff"


@dataclass(frozen=True)
class ByteCorpus:
    """Training and held-out bytes (uint8 [N]), how many files each came from, and the SHA-256 of both together."""

    train_N: np.ndarray
    heldout_N: np.ndarray
    train_files: int
    heldout_files: int
    digest: str


def stdlib_files() -> list[Path]:
    """The standard library's Python sources without its tests, sorted by path relative to the library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [f for f in root.rglob("*.py") if not SKIPPED_FOLDERS.intersection(f.relative_to(root).parts)]
    return sorted(files, key=lambda f: f.relative_to(root).as_posix())


def _is_heldout(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % HOLDOUT_ONE_IN == 0


def _join(parts: list[bytes]) -> np.ndarray:
    return np.frombuffer(SEPARATOR.join(parts), dtype=np.uint8)


def load_corpus(files: Iterable[Path] | None = None, min_bytes: int = 4096) -> ByteCorpus:
    """Read ``files`` (default: the standard library) whole and split them by the hash of parent folder and file name.

    Raises AthanorError when either side has fewer than ``min_bytes`` bytes, or a file cannot be read.
    """
    sides: dict[bool, list[bytes]] = {False: [], True: []}
    for file in files if files is not None else stdlib_files():
        try:
            sides[_is_heldout(f"{file.parent.name}/{file.name}")].append(file.read_bytes())
        except OSError as error:
            raise AthanorError(f"cannot be read: {error.strerror}", where=str(file)) from error
    train_N, heldout_N = _join(sides[False]), _join(sides[True])
    for name, side_N in (("training", train_N), ("held-out", heldout_N)):
        if len(side_N) < min_bytes:
            raise AthanorError(
                f"the {name} text of the stability laboratory has {len(side_N)} bytes; it needs {min_bytes}",
                where=sysconfig.get_paths()["stdlib"] if files is None else None,
                fix="install Python with its standard-library sources, or give more files",
            )
    digest = hashlib.sha256(train_N.tobytes() + b"\0" + heldout_N.tobytes()).hexdigest()
    return ByteCorpus(train_N, heldout_N, len(sides[False]), len(sides[True]), digest)


def windows(bytes_N: np.ndarray, starts_B: np.ndarray, seq_len: int) -> Batch:
    """Rows of ``seq_len`` bytes and their next bytes: one document a row, every position a target."""
    rows = torch.from_numpy(bytes_N[starts_B[:, None] + np.arange(seq_len + 1)].astype(np.int64))
    positions_BT = torch.arange(seq_len).expand(len(rows), seq_len).contiguous()
    return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), positions_BT, [[seq_len]] * len(rows))


class ByteSource:
    """``BatchSource``: the step's windows start at offsets that are a function of (seed, step) alone.

    So every architecture and every learning rate of one seed reads the same bytes in the same order.
    """

    def __init__(self, corpus: ByteCorpus, seed: int, batch_rows: int, seq_len: int) -> None:
        self.corpus, self.seed, self.batch_rows, self.seq_len = corpus, seed, batch_rows, seq_len

    def micro_batches(self, step: int, model: Decoder) -> list[Batch]:
        """One micro-batch of ``batch_rows`` rows."""
        rng = np.random.default_rng([self.seed, step])
        starts_B = rng.integers(0, len(self.corpus.train_N) - self.seq_len, size=self.batch_rows)
        return [windows(self.corpus.train_N, starts_B, self.seq_len)]


def heldout_batches(corpus: ByteCorpus, n_bytes: int, batch_rows: int, seq_len: int) -> list[Batch]:
    """The same held-out windows for every run: evenly spaced starts, at least ``n_bytes`` targets in whole batches."""
    rows = batch_rows * -(-n_bytes // (batch_rows * seq_len))
    starts = np.linspace(0, len(corpus.heldout_N) - seq_len - 1, rows).astype(np.int64)
    return [windows(corpus.heldout_N, starts[i : i + batch_rows], seq_len) for i in range(0, rows, batch_rows)]

"""The laboratory's text: split, windows, order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from athanor.errors import AthanorError
from athanor.stability.corpus import ByteSource, heldout_batches, load_corpus, stdlib_files


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = []
    for i in range(60):
        path = tmp_path / f"file{i}.py"
        path.write_bytes(f"# file {i}\n".encode() * 40)
        made.append(path)
    return made


def test_standard_library_has_sources_without_tests() -> None:
    names = [path.name for path in stdlib_files()]
    assert "argparse.py" in names and len(names) > 200
    assert not any("site-packages" in path.parts or "test" in path.parts for path in stdlib_files())


def test_split_is_by_file_and_stable(files: list[Path]) -> None:
    corpus, again = load_corpus(files, min_bytes=65), load_corpus(files, min_bytes=65)
    assert corpus.digest == again.digest
    assert corpus.train_files + corpus.heldout_files == 60 and 0 < corpus.heldout_files < 20
    train = {line for line in corpus.train_N.tobytes().split(b"\n") if line.startswith(b"# file")}
    held = {line for line in corpus.heldout_N.tobytes().split(b"\n") if line.startswith(b"# file")}
    assert len(train) >= corpus.train_files and not train & held
    assert sum(f.stat().st_size for f in files) + 58 == len(corpus.train_N) + len(corpus.heldout_N)


def test_batches_are_a_function_of_seed_and_step(files: list[Path]) -> None:
    corpus = load_corpus(files, min_bytes=65)
    source = ByteSource(corpus, seed=3, batch_rows=4, seq_len=16)
    later = source.micro_batches(7, None)[0]  # type: ignore[arg-type]
    again = ByteSource(corpus, seed=3, batch_rows=4, seq_len=16).micro_batches(7, None)[0]  # type: ignore[arg-type]
    other = ByteSource(corpus, seed=4, batch_rows=4, seq_len=16).micro_batches(7, None)[0]  # type: ignore[arg-type]
    assert later.input_ids_BT.equal(again.input_ids_BT) and not later.input_ids_BT.equal(other.input_ids_BT)
    assert later.input_ids_BT[:, 1:].equal(later.labels_BT[:, :-1])
    text = corpus.train_N.tobytes()
    for row, label in zip(later.input_ids_BT.tolist(), later.labels_BT[:, -1].tolist(), strict=True):
        assert bytes([*row, label]) in text


def test_heldout_is_the_same_bytes_however_it_is_cut(files: list[Path]) -> None:
    corpus = load_corpus(files, min_bytes=65)
    batches = heldout_batches(corpus, n_bytes=100, batch_rows=2, seq_len=16)
    assert sum(batch.n_targets for batch in batches) == 128
    one = heldout_batches(corpus, n_bytes=128, batch_rows=8, seq_len=16)
    assert np.array_equal(np.concatenate([batch.labels_BT.numpy() for batch in batches]), one[0].labels_BT.numpy())


def test_too_little_text_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(AthanorError, match="bytes; it needs 4096"):
        load_corpus([])
    with pytest.raises(AthanorError, match="cannot be read"):
        load_corpus([tmp_path / "missing.py"])

"""Shards: what is written is read; damage is named and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from athanor.data.shards import ShardSet, ShardWriter, token_dtype
from athanor.errors import AthanorError

DOCS = [[5, 6, 7], [8], [9, 10, 11, 12, 0], [13] * 40, [300, 2]]


def write(path: Path, mask: bool = False, shard_tokens: int = 8, vocab_size: int = 400) -> ShardSet:
    with ShardWriter(path, "finger", vocab_size, with_mask=mask, shard_tokens=shard_tokens) as writer:
        for ids in DOCS:
            writer.add(ids, [i % 2 for i in range(len(ids))] if mask else None)
    return ShardSet.open(path)


@pytest.mark.parametrize("shard_tokens", [1, 8, 1 << 20])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("vocab_size", [400, 70_000])
def test_round_trip(tmp_path: Path, shard_tokens: int, mask: bool, vocab_size: int) -> None:
    shards = write(tmp_path, mask, shard_tokens, vocab_size)
    expected = [ids if ids[-1] == 0 else [*ids, 0] for ids in DOCS]
    assert [shards.doc(i).tolist() for i in range(shards.n_docs)] == expected
    assert shards.doc_lens.tolist() == [len(ids) for ids in expected]
    assert shards.n_tokens == sum(map(len, expected))
    assert shards.doc(0).dtype == (np.uint16 if vocab_size == 400 else np.uint32)
    for i, ids in enumerate(DOCS):
        learned = shards.doc_mask(i)
        assert learned is None if not mask else learned.tolist()[: len(ids)] == [j % 2 for j in range(len(ids))]  # type: ignore[union-attr]
        assert not mask or ids[-1] == 0 or learned[-1] == 0  # type: ignore[index]


def test_gather_crosses_shards(tmp_path: Path) -> None:
    shards = write(tmp_path, mask=True, shard_tokens=8)
    docs, starts, lens = np.array([3, 0, 4, 2]), np.array([10, 1, 0, 0]), np.array([5, 2, 2, 4])
    inputs, targets, learned = shards.gather(docs, starts, lens)
    rows = list(zip(docs, starts, lens, strict=True))
    assert inputs.tolist() == [t for d, s, n in rows for t in shards.doc(d)[s : s + n].tolist()]
    assert targets.tolist() == [t for d, s, n in rows for t in shards.doc(d)[s + 1 : s + n + 1].tolist()]
    assert learned.tolist() == [bool(t) for d, s, n in rows for t in shards.doc_mask(d)[s + 1 : s + n + 1]]  # type: ignore[index]


def test_narrowest_type() -> None:
    assert token_dtype(65_536) == np.uint16 and token_dtype(65_537) == np.uint32


@pytest.mark.parametrize("kind", ["tokens", "docs", "mask"])
def test_truncated_missing_or_long_file_is_named(tmp_path: Path, kind: str) -> None:
    write(tmp_path, mask=True)
    file = tmp_path / f"shard-00001.{kind}"
    whole = file.read_bytes()
    for content, word in ((whole[:-1], "truncated"), (whole + b"x", "too long"), (None, "missing")):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        for verify in (True, False):
            with pytest.raises(AthanorError, match=rf"shard-00001\.{kind}.*{word}"):
                ShardSet.open(tmp_path, verify=verify)


@pytest.mark.parametrize("kind", ["tokens", "docs", "mask"])
def test_every_flipped_bit_is_found(tmp_path: Path, kind: str) -> None:
    write(tmp_path, mask=True, shard_tokens=1 << 20)
    file = tmp_path / f"shard-00000.{kind}"
    whole = bytearray(file.read_bytes())
    for bit in range(0, 8 * len(whole), 37):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        with pytest.raises(AthanorError, match=rf"shard-00000\.{kind}.*corrupted"):
            ShardSet.open(tmp_path)


def test_unfinished_and_corrupt_index(tmp_path: Path) -> None:
    with pytest.raises(AthanorError, match="no shards here"):
        ShardSet.open(tmp_path / "nowhere")
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "f", 400, shard_tokens=1) as writer:
        writer.add([5])
        raise RuntimeError("stopped")
    with pytest.raises(AthanorError, match="unfinished"):
        ShardSet.open(tmp_path)
    write(tmp_path)  # what the stopped run left does not disturb
    index = tmp_path / "index.json"
    good = json.loads(index.read_text())
    assert len(good["shards"]) == len(list(tmp_path.glob("*.tokens")))
    for bad in (index.read_text()[:-30], "[]", "{}", json.dumps({**good, "vocab_size": 9}), json.dumps({"format": 9})):
        index.write_text(bad)
        with pytest.raises(AthanorError, match=r"index\.json"):
            ShardSet.open(tmp_path)


def test_tokenizer_of_another_vocabulary(tmp_path: Path) -> None:
    write(tmp_path)
    assert ShardSet.open(tmp_path, tokenizer_fingerprint="finger").n_docs == 5
    with pytest.raises(AthanorError, match="tokenizer of another vocabulary"):
        ShardSet.open(tmp_path, tokenizer_fingerprint="other")


@pytest.mark.parametrize("ids", [[], [400], [-1]])
def test_bad_documents_are_refused(tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(AthanorError, match="document 0"), ShardWriter(tmp_path, "f", 400) as writer:
        writer.add(ids)
    assert not (tmp_path / "index.json").exists()


def test_mask_must_match_and_finished_shards_stay(tmp_path: Path) -> None:
    with pytest.raises(AthanorError, match="mask"), ShardWriter(tmp_path, "f", 400, with_mask=True) as writer:
        writer.add([5, 6], [1])
    write(tmp_path)
    with pytest.raises(AthanorError, match="already here"):
        ShardWriter(tmp_path, "f", 400)

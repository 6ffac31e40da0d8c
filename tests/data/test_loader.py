"""The stream: a function of (seed, row) alone; whole documents, right labels, shares as asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data.loader import Mixture, PackedLoader, held_out_batches, stage_loader
from athanor.data.shards import ShardSet, ShardWriter
from athanor.data.types import IGNORE, Batch
from athanor.errors import AthanorError
from athanor.recipe.schema import StageRecipe, TrainRecipe

SEQ = 64
#: Ids of source i lie in [BASE·(i+1), BASE·(i+2)), so a token tells where it came from.
BASE = 10_000


def make(path: Path, number: int, lens: list[int], mask: bool = False, fingerprint: str = "f") -> ShardSet:
    with ShardWriter(path, fingerprint, 60_000, with_mask=mask, shard_tokens=3000) as writer:
        at = BASE * (number + 1)
        for n in lens:
            ids = [at + (i % (BASE - 1)) for i in range(n)]
            writer.add(ids, [i % 3 == 0 for i in range(n)] if mask else None)
            at = BASE * (number + 1) + (at + n) % 5000
    return ShardSet.open(path)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardSet]:
    path = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    return {
        "long": make(path / "long", 0, rng.integers(50, 400, 60).tolist()),
        "short": make(path / "short", 1, rng.integers(3, 30, 400).tolist()),
        "masked": make(path / "masked", 2, rng.integers(10, 60, 100).tolist(), mask=True),
    }


MIXTURE = {"long": 0.6, "short": 0.3, "masked": 0.1}


@pytest.fixture(scope="module")
def loader(sources: dict[str, ShardSet]) -> PackedLoader:
    return PackedLoader(sources, MIXTURE, SEQ, seed=1)


def equal(a: Batch, b: Batch) -> bool:
    tensors = (("input_ids_BT", "labels_BT", "positions_BT"), a.doc_lens == b.doc_lens)
    return tensors[1] and all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors[0])


def row(batch: Batch, i: int) -> tuple:
    return (
        batch.input_ids_BT[i].tolist(),
        batch.labels_BT[i].tolist(),
        batch.positions_BT[i].tolist(),
        batch.doc_lens[i],
    )


def test_any_cut_of_the_stream_gives_the_same_rows(sources: dict[str, ShardSet], loader: PackedLoader) -> None:
    """Ranks, workers, micro-batches and resumes are all just other ways to cut the stream."""
    whole = loader.rows(100, 60)
    for parts in ([60], [1] * 60, [7, 13, 40]):
        fresh = PackedLoader(sources, MIXTURE, SEQ, seed=1)
        at, rows = 0, []
        for n in parts:
            batch = fresh.rows(100 + at, n)
            rows += [row(batch, i) for i in range(n)]
            at += n
        assert rows == [row(whole, i) for i in range(60)]
    # four ranks take every fourth row, in threads, in any order
    fresh = PackedLoader(sources, MIXTURE, SEQ, seed=1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda r: row(fresh.rows(r, 1), 0), reversed(range(100, 160))))
    assert found[::-1] == [row(whole, i) for i in range(60)]


def test_seeds_and_epochs_differ(sources: dict[str, ShardSet], loader: PackedLoader) -> None:
    assert not equal(loader.rows(0, 8), PackedLoader(sources, MIXTURE, SEQ, seed=2).rows(0, 8))
    one = PackedLoader({"long": sources["long"]}, None, SEQ, seed=0)
    n = int(one.describe()["long"]["rows_per_epoch"])
    first, second = one.rows(0, n), one.rows(n, n)
    assert not equal(first, second)
    assert sorted(first.labels_BT.flatten().tolist()) == sorted(second.labels_BT.flatten().tolist())
    assert equal(one.rows(n - 2, 5), PackedLoader({"long": sources["long"]}, None, SEQ, seed=0).rows(n - 2, 5))
    assert equal(one.rows(10**12, 2), PackedLoader({"long": sources["long"]}, None, SEQ, seed=0).rows(10**12, 2))


def test_documents_labels_positions(sources: dict[str, ShardSet], loader: PackedLoader) -> None:
    """Each stretch of a row is a stretch of one stored document, with the token after each as its label."""
    names = list(sources)
    stored = {
        name: [(s.doc(i).tolist(), m.tolist() if (m := s.doc_mask(i)) is not None else None) for i in range(s.n_docs)]
        for name, s in sources.items()
    }
    batch = loader.rows(0, 40)
    assert batch.input_ids_BT.dtype == batch.labels_BT.dtype == batch.positions_BT.dtype == torch.int64
    for b in range(40):
        ids, labels, positions, lens = row(batch, b)
        assert sum(lens) == SEQ
        at = 0
        for n in lens:
            piece, after = ids[at : at + n], labels[at : at + n]
            assert positions[at : at + n] == list(range(n))
            at += n
            if piece[0] == 1:  # padding: one last stretch
                assert at == SEQ and set(piece) == {1} and set(after) == {IGNORE}
                continue
            name = names[piece[0] // BASE - 1]
            matches = [
                (doc, mask, start)
                for doc, mask in stored[name]
                for start in range(0, len(doc) - 1, SEQ)
                if doc[start : start + n] == piece and min(SEQ, len(doc) - 1 - start) == n
            ]
            assert any(
                after
                == [t if mask is None or mask[start + 1 + i] else IGNORE for i, t in enumerate(doc[start + 1 :][:n])]
                for doc, mask, start in matches
            )


def test_an_epoch_trains_on_every_target_once(sources: dict[str, ShardSet]) -> None:
    for name, shards in sources.items():
        loader = PackedLoader({name: shards}, None, SEQ, seed=0)
        batch = loader.rows(0, int(loader.describe()[name]["rows_per_epoch"]))
        targets = sorted(t for t in batch.labels_BT.flatten().tolist() if t != IGNORE)
        expected = []
        for i in range(shards.n_docs):
            mask = shards.doc_mask(i)
            expected += [int(t) for j, t in enumerate(shards.doc(i)) if j and (mask is None or mask[j])]
        assert targets == sorted(expected)
        assert batch.meta["n_targets"] == batch.n_targets == len(expected)


def test_shares_are_of_tokens(loader: PackedLoader) -> None:
    batch = loader.rows(0, 5000)
    total = sum(batch.meta["source_tokens"].values())
    for name, share in MIXTURE.items():
        assert batch.meta["source_tokens"][name] / total == pytest.approx(share, abs=0.01)
    used = (batch.input_ids_BT != 1).sum().item() / batch.input_ids_BT.numel()
    assert loader.efficiency() == pytest.approx(used, abs=0.005) and used > 0.97
    assert total == (batch.input_ids_BT != 1).sum().item()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=9), st.integers(0, 10**9))
def test_every_stretch_is_close_to_the_mixture(weights: list[float], row: int) -> None:
    mixture = Mixture({str(i): w for i, w in enumerate(weights)})
    source, index = mixture.place(np.arange(row, row + 300))
    before, after = mixture.used(row), mixture.used(row + 300)
    for i, (name, weight) in enumerate(zip(mixture.names, weights, strict=True)):
        taken = index[source == i]
        assert taken.tolist() == list(range(before[name], after[name]))  # no row left out, none twice
        share = mixture.counts[i] / Mixture.PERIOD
        assert share == pytest.approx(weight / sum(weights), abs=len(weights) / Mixture.PERIOD)
        assert abs(before[name] - row * share) <= len(weights)


def test_tiny_sources_get_a_row() -> None:
    mixture = Mixture({"a": 1.0, "b": 1e-9, "c": 1e-9})
    assert mixture.counts.tolist() == [Mixture.PERIOD - 2, 1, 1]


def test_empty_mixture_follows_the_tokens_and_zero_takes_none(sources: dict[str, ShardSet]) -> None:
    shares = {n: d["token_share"] for n, d in PackedLoader(sources, {}, SEQ, seed=0).describe().items()}
    total = sum(s.n_tokens for s in sources.values())
    assert shares == pytest.approx({n: s.n_tokens / total for n, s in sources.items()})
    only = PackedLoader(sources, {"long": 2, "short": 0}, SEQ, seed=0).rows(0, 50)
    assert set(only.meta["source_tokens"]) == {"long"}


def test_the_next_stage_goes_on_behind(sources: dict[str, ShardSet]) -> None:
    one = {"short": sources["short"]}
    whole = PackedLoader(one, None, SEQ, seed=0)
    later = PackedLoader(one, None, SEQ, seed=0, start=whole.source_rows(10))
    assert equal(later.rows(0, 5), whole.rows(10, 5))
    assert later.source_rows(5) == {"short": 15}
    assert later.fingerprint() != whole.fingerprint() == PackedLoader(one, None, SEQ, seed=0).fingerprint()


def test_bad_mixtures_and_sources(sources: dict[str, ShardSet], tmp_path: Path) -> None:
    for mixture in ({"nowhere": 1.0}, {"long": -1.0, "short": 2.0}, {"long": 0.0}, {"long": float("nan")}):
        with pytest.raises(AthanorError, match="mixture"):
            PackedLoader(sources, mixture, SEQ, seed=0)
    other = make(tmp_path / "other", 0, [50], fingerprint="another")
    with pytest.raises(AthanorError, match="tokenizer of another vocabulary"):
        PackedLoader({**sources, "other": other}, None, SEQ, seed=0)
    with ShardWriter(tmp_path / "none", "f", 400):
        pass
    with pytest.raises(AthanorError, match="no documents"):
        PackedLoader({"none": ShardSet.open(tmp_path / "none")}, {"none": 1.0}, SEQ, seed=0)


def test_context_longer_than_any_document(sources: dict[str, ShardSet]) -> None:
    """Ordinary stages pack short documents and say so; a stage that is there to lengthen the context refuses."""
    train = TrainRecipe(seq_len=512)
    ordinary = stage_loader(StageRecipe(name="general"), train, sources, seed=0)
    assert "no document fills the context: the longest has" in ordinary.notes[0]
    assert ordinary.rows(0, 2).input_ids_BT.shape == (2, 512)
    for stage in (
        StageRecipe(name="long_context"),
        StageRecipe(name="stretch", seq_len=1024, rope_theta=1e5),
    ):
        with pytest.raises(AthanorError, match="no document fills the context"):
            stage_loader(stage, train, sources, seed=0)
    assert not any(
        "fills" in n for n in stage_loader(StageRecipe(name="long_context", seq_len=128), train, sources, 0).notes
    )


def test_cut_conversations_are_told(sources: dict[str, ShardSet]) -> None:
    assert any("longer than a row and are cut" in n for n in PackedLoader(sources, {"masked": 1}, 32, seed=0).notes)


def test_held_out_batches_repeat_nothing(sources: dict[str, ShardSet]) -> None:
    batches = held_out_batches(sources["short"], SEQ, 10**9, rows_per_batch=8)
    assert sum(b.n_targets for b in batches) == sources["short"].n_tokens - sources["short"].n_docs
    few = held_out_batches(sources["short"], SEQ, 10 * SEQ, rows_per_batch=4)
    assert [len(b.doc_lens) for b in few] == [4, 4, 2] and equal(few[0], Batch(*_head(batches[0], 4)))


def _head(batch: Batch, n: int) -> tuple:
    return batch.input_ids_BT[:n], batch.labels_BT[:n], batch.positions_BT[:n], batch.doc_lens[:n]

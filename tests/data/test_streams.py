"""Weighted and ordered streams: how often, in which order, and exactly how much so far; the old stream unchanged."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from athanor.data import streams
from athanor.data.loader import PackedLoader
from athanor.data.shards import ShardSet, ShardWriter
from athanor.data.streams import PERIOD, copies, document_weights, hashed
from athanor.data.types import Batch
from athanor.errors import AthanorError
from athanor.recipe.mixing import OrderRecipe, WeightingRecipe

SEQ = 64
BY_WEIGHT = WeightingRecipe(kind="document")
EASY_FIRST = OrderRecipe(kind="easy_to_hard", jitter=0.0)


def make(path: Path, lens: list[int], weights=None, difficulties=None, domains=("general",)) -> ShardSet:
    """Document i has n positions with the token i + 2, so that a row tells which documents are in it."""
    with ShardWriter(path, "f", 60_000, shard_tokens=3000) as writer:
        for i, n in enumerate(lens):
            writer.add(
                [i + 2] * n,
                label=(domains[i % len(domains)], "en"),
                weight=None if weights is None else weights[i],
                difficulty=None if difficulties is None else difficulties[i],
            )
    return ShardSet.open(path)


def counted(batch: Batch) -> Counter:
    """Positions by document."""
    ids = batch.input_ids_BT.flatten().numpy()
    return Counter(ids[ids != 1].tolist())


def test_streams_of_before_have_the_same_bits(tmp_path: Path) -> None:
    """A digest taken before weights and orders existed: runs of then can be resumed and repeated."""
    rng = np.random.default_rng(3)
    sources = {}
    for name, low, high, n in (("long", 50, 400, 60), ("short", 3, 30, 400), ("masked", 10, 60, 100)):
        masked = name == "masked"
        with ShardWriter(tmp_path / name, "f", 60_000, with_mask=masked, shard_tokens=3000) as writer:
            for i, size in enumerate(rng.integers(low, high, n)):
                ids = (np.arange(size) * 7 + i * 13) % 59_000 + 2
                writer.add(ids, (np.arange(size) % 3 == 0).astype(int) if masked else None)
        sources[name] = ShardSet.open(tmp_path / name)
    hasher = hashlib.sha256()
    for start in ({}, {"short": 5, "long": 100}):
        loader = PackedLoader(sources, {"long": 0.6, "short": 0.3, "masked": 0.1}, SEQ, seed=1, start=start)
        for at in (0, 777, 10**9):
            batch = loader.rows(at, 50)
            for tensor in (batch.input_ids_BT, batch.labels_BT, batch.positions_BT):
                hasher.update(tensor.numpy().tobytes())
            hasher.update(repr(batch.doc_lens).encode())
    assert hasher.hexdigest() == "4d609bfdbef41d626ea0d299ab30ac561960f1088088be8ae832fd175e899804"
    assert loader.fingerprint() == "6ca610040de1781452b04e27d6a673e6baf16bf94f357f0ee380ea934b80580b"


def test_copies_are_the_floor_or_one_more_and_right_on_average() -> None:
    weights = np.random.default_rng(0).gamma(1.0, 1.0, 4000)
    uniform = hashed(np.arange(4000), 7, 8)
    drawn = np.array([copies(weights, uniform, epoch) for epoch in range(2 * PERIOD)])
    assert ((drawn == np.floor(weights)) | (drawn == np.floor(weights) + 1)).all()
    assert (drawn[:PERIOD] == drawn[PERIOD:]).all()
    # a whole period is off by less than a copy; and one epoch over many documents is a Bernoulli draw of the rest
    assert (np.abs(drawn[:PERIOD].sum(0) - PERIOD * weights) < 1).all()
    rest = weights % 1
    for epoch in (0, 5):
        deviation = (drawn[epoch] - weights).sum() / np.sqrt((rest * (1 - rest)).sum())
        assert abs(deviation) < 4
    assert abs(np.corrcoef(drawn[0] - np.floor(weights), drawn[0][::-1] - np.floor(weights)[::-1])[0, 1]) < 0.1


def test_hashes_are_even_and_differ_by_key() -> None:
    a, b = hashed(np.arange(100_000), 1, 2), hashed(np.arange(100_000), 1, 3)
    assert np.abs(np.histogram(a, 50, (0, 1))[0] / 2000 - 1).max() < 0.1
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02 and abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.02


def test_an_epoch_has_each_document_as_often_as_its_draw(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lens = rng.integers(3, 150, 300).tolist()
    shards = make(tmp_path, lens, rng.gamma(1.0, 1.0, 300).tolist())
    loader = PackedLoader({"a": shards}, None, SEQ, seed=5, weighting=BY_WEIGHT)
    weights = document_weights(shards, BY_WEIGHT)
    assert weights is not None and weights.mean() == pytest.approx(1) and weights.max() <= 8.001
    stream = loader._streams[0]
    first = 0
    for epoch in range(3):
        expected = copies(weights, stream.uniform, epoch)
        n = 0  # rows up to the first one of the next epoch
        while stream.place(np.array([first + n]))[0][0] == epoch:
            n += 1
        found = counted(loader.rows(first, n))
        assert found == {i + 2: int(c) * lens[i] for i, c in enumerate(expected) if c}
        first += n
    # somewhere else entirely, another loader finds the same rows
    other = PackedLoader({"a": shards}, None, SEQ, seed=5, weighting=BY_WEIGHT)
    for at in (first + 3, 10**7, 17):
        assert counted(other.rows(at, 2)) == counted(loader.rows(at, 2))
    assert counted(PackedLoader({"a": shards}, None, SEQ, seed=6, weighting=BY_WEIGHT).rows(0, 20)) != counted(
        loader.rows(0, 20)
    )


def test_equal_weights_are_the_plain_stream_and_bad_ones_are_refused(tmp_path: Path) -> None:
    lens = [10, 20, 30, 40]
    plain = PackedLoader({"a": make(tmp_path / "p", lens)}, None, SEQ, seed=0)
    same = PackedLoader({"a": make(tmp_path / "q", lens, [2.0] * 4)}, None, SEQ, seed=0, weighting=BY_WEIGHT)
    assert counted(plain.rows(0, 9)) == counted(same.rows(0, 9))
    noted = PackedLoader({"a": ShardSet.open(tmp_path / "p")}, None, SEQ, seed=0, weighting=BY_WEIGHT)
    assert any("no weight" in note for note in noted.notes)
    bad = make(tmp_path / "bad", lens, [1.0, -1.0, 1.0, 1.0])
    with pytest.raises(AthanorError, match="document weights"):
        PackedLoader({"a": bad}, None, SEQ, seed=0, weighting=BY_WEIGHT)
    with pytest.raises(AthanorError, match="no document here has a difficulty"):
        PackedLoader({"a": bad}, None, SEQ, seed=0, order=EASY_FIRST)
    zeros = make(tmp_path / "zeros", lens, [0.0, 3.0, 0.0, 1.0])
    got = counted(PackedLoader({"a": zeros}, None, SEQ, seed=0, weighting=BY_WEIGHT).rows(0, 50))
    assert set(got) == {3, 5}


@pytest.mark.parametrize("share_of_epoch", [0.3, 1.0, 2.5])
def test_a_curriculum_goes_from_easy_to_hard_over_the_stage(tmp_path: Path, share_of_epoch: float) -> None:
    rng = np.random.default_rng(2)
    lens = rng.integers(10, 200, 1500).tolist()
    difficulties = rng.permutation(1500) / 1500
    shards = make(tmp_path, lens, difficulties=difficulties.tolist())
    epoch = PackedLoader({"a": shards}, None, SEQ, seed=0, order=EASY_FIRST).describe()["a"]["rows_per_epoch"]
    n = round(epoch * share_of_epoch)
    loader = PackedLoader({"a": shards}, None, SEQ, seed=0, order=EASY_FIRST, n_rows=n)
    means = []
    for at in range(0, n - n // 16, n // 16):
        ids = loader.rows(at, n // 16).input_ids_BT.numpy()
        means.append(difficulties[ids[ids != 1] - 2].mean())
    assert np.all(np.diff(means) > -0.02) and means[0] < 0.1 and means[-1] > 0.9
    told = loader.curriculum()["a"]  # 16 parts of equal tokens, as the rows served have shown
    assert len(told) == 16 and np.abs(np.array(told) - (np.arange(16) + 0.5) / 16).max() < 0.06
    assert PackedLoader({"a": shards}, None, SEQ, seed=0).curriculum() == {}
    seen = counted(loader.rows(0, n))
    times = np.array([seen[i + 2] / length for i, length in enumerate(lens)])
    assert times.max() <= np.ceil(share_of_epoch) + 1e-9
    if share_of_epoch >= 1:
        assert (times >= np.floor(share_of_epoch) - 1e-9).mean() > 0.97  # rows of a block are whole
    # the same rows, asked for in another way
    again = PackedLoader({"a": shards}, None, SEQ, seed=0, order=EASY_FIRST, n_rows=n)
    assert counted(again.rows(n // 2, 3)) == counted(loader.rows(n // 2, 3))


def test_jitter_blurs_the_order_and_unknown_difficulty_is_spread(tmp_path: Path) -> None:
    lens = [SEQ] * 1200  # a document a row
    difficulties = [i / 1200 if i % 2 else None for i in range(1200)]
    shards = make(tmp_path, lens, difficulties=difficulties)
    n = 1200
    half = {}
    for jitter in (0.0, 0.3, 1.0):
        order = OrderRecipe(kind="easy_to_hard", jitter=jitter)
        ids = PackedLoader({"a": shards}, None, SEQ, seed=0, order=order, n_rows=n).rows(0, n // 2).input_ids_BT.numpy()
        docs = ids[:, 0] - 2
        known = docs[docs % 2 == 1]
        half[jitter] = (known < 600).mean()
        unknown = docs[docs % 2 == 0]
        assert 200 < len(unknown) < 400 and 0.35 < (unknown < 600).mean() < 0.65
    assert half[0.0] > 0.95 > half[0.3] > half[1.0] > 0.5


def test_what_was_seen_is_what_was_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    sources = {
        name: make(
            tmp_path / name,
            rng.integers(3, 150, n).tolist(),
            rng.gamma(1.0, 1.0, n).tolist(),
            rng.random(n).tolist(),
            ("web", "code", "web"),
        )
        for name, n in (("a", 200), ("b", 500))
    }
    cases = [
        {},
        {"start": {"a": 37, "b": 9}},
        {"weighting": BY_WEIGHT},
        {"weighting": BY_WEIGHT, "start": {"a": 300}},
        {"order": EASY_FIRST, "n_rows": 700},
        {"order": EASY_FIRST, "weighting": BY_WEIGHT, "n_rows": 700, "start": {"b": 50}},
    ]
    for case in cases:
        loader = PackedLoader(sources, {"a": 1.0, "b": 2.0}, SEQ, seed=0, **case)
        total: Counter = Counter()
        by_domain: Counter = Counter()
        at = 0
        for n in (1, 57, 200, 400):
            batch = loader.rows(at, n)
            total.update(batch.meta["source_tokens"])
            source_n = loader.mixture.place(np.arange(at, at + n))[0]
            for row, source in zip(batch.input_ids_BT.numpy(), source_n, strict=True):
                shards = sources["ab"[source]]
                for i, count in Counter(row[row != 1].tolist()).items():
                    by_domain[shards.labels[shards.label_of[i - 2]][0]] += count
            at += n
            seen = loader.seen(at)
            assert seen.tokens == {name: total[name] for name in sources} and seen.domains == {
                d: by_domain[d] for d in ("web", "code")
            }
            fresh = PackedLoader(sources, {"a": 1.0, "b": 2.0}, SEQ, seed=0, **case)
            assert fresh.seen(at) == seen
        positions = {name: int((s.doc_lens - 1).sum()) for name, s in sources.items()}
        assert seen.epochs == pytest.approx({name: total[name] / positions[name] for name in sources})


def test_packing_stays_tight(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    n = 4000
    lens = np.minimum(rng.lognormal(3.5, 1.0, n).astype(int) + 2, 900)
    shards = make(tmp_path, lens.tolist(), rng.gamma(1.0, 1.0, n).tolist(), rng.random(n).tolist())
    loader = PackedLoader({"a": shards}, None, 256, seed=0, weighting=BY_WEIGHT, order=EASY_FIRST, n_rows=500)
    batch = loader.rows(0, 500)
    used = (batch.input_ids_BT != 1).float().mean().item()
    assert used > 0.97 and loader.efficiency() == pytest.approx(used, abs=0.01)


def test_old_epochs_are_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A far row of a weighted source asks for no more packings than one period has."""
    rng = np.random.default_rng(0)
    shards = make(tmp_path, rng.integers(5, 60, 200).tolist(), rng.gamma(1.0, 1.0, 200).tolist())
    made = []
    real = streams.Packing
    monkeypatch.setattr(streams, "Packing", lambda *a: made.append(1) or real(*a))
    loader = PackedLoader({"a": shards}, None, SEQ, seed=0, weighting=BY_WEIGHT)
    loader.rows(10**10, 4)
    assert len(made) <= PERIOD + 3

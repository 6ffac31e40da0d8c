"""The benchmarks of the loader and of re-weighting do what they say, on inputs of seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import data_reweight
from bench.data_loader import WAYS, measure, write
from bench.data_reweight import NATURAL, judge, texts


def test_the_loader_is_measured_in_every_way(tmp_path: Path) -> None:
    for kind in ("small", "long"):
        sources = {name: write(tmp_path / kind / name, kind, 200_000, seed) for seed, name in enumerate("ab")}
        assert sum(shards.n_tokens for shards in sources.values()) > 400_000
        for way in WAYS.values():
            found = measure(sources, way, 70_000)
            assert found["tokens_per_s"] > 0 and 0.8 < found["packing"] <= 1


def test_differences_are_paired_by_seed() -> None:
    def run(mean_shift: float, worst: float) -> dict:
        return {"losses": {**dict.fromkeys(NATURAL, 1.0 + mean_shift), "prose": worst}}

    seeds = [
        {"uniform static": run(0.0, 5.0), "uniform excess": run(-0.5, 5.1)},
        {"uniform static": run(1.0, 6.0), "uniform excess": run(0.5, 6.1)},
    ]
    mean, worst = judge(seeds, "uniform excess")
    assert mean["difference"] == pytest.approx((-0.5 * 4 + 0.1) / 5) and mean["no_worse"]
    assert worst["difference"] == pytest.approx(0.1) and worst["spread"] == pytest.approx(0) and not worst["no_worse"]


def test_texts_differ_between_training_and_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for domain in ("chinese", "noise", "arithmetic"):
        train, held_out = (list(texts(domain, 20, seed)) for seed in (0, 1))
        assert len(train) == 20 and train != held_out and train == list(texts(domain, 20, 0))
    assert data_reweight.UNIFORM.keys() == NATURAL.keys()

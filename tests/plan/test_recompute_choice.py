"""The integer programme beside all assignments there are; rungs beside all pairs."""

import itertools

import numpy as np
import pytest

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.plan.recompute_choice import NONE, Choice, Rungs, choices, choose
from athanor.recipe import PRESETS

TABLE = [NONE, Choice(("norms",)), Choice(("ffn",)), Choice(full=True)]


def brute_force(kept, again, blocks, room, base, weight):
    """The least objective over all counts, rank by rank, and whether there is any."""

    def rank(r):
        for counts in itertools.product(range(blocks[r] + 1), repeat=kept.shape[1]):
            if sum(counts) == blocks[r] and np.dot(counts, kept[r]) <= room[r] + 1e-9:
                yield base[r] + float(np.dot(counts, again)), float(np.dot(counts, again))

    options = [list(rank(r)) for r in range(len(blocks))]
    if not all(options):
        return None
    return min(
        weight[0] * max(t for t, _ in combo) + weight[1] * sum(a for _, a in combo)
        for combo in itertools.product(*options)
    )


@pytest.mark.parametrize("seed", range(6))
def test_no_mix_is_better(seed):
    rng = np.random.default_rng(seed)
    blocks = np.array([3, 3])
    kept = np.sort(rng.uniform(1, 10, (2, 4)), axis=1)[:, ::-1]
    again = np.array([0.0, 0.1, 0.35, 1.0]) * rng.uniform(0.5, 1.5, 4)
    room = rng.uniform(1.0, 1.2, 2) * blocks * (kept[:, -1] + rng.uniform(0.1, 0.9, 2) * (kept[:, 0] - kept[:, -1]))
    base = rng.uniform(4, 6, 2)
    weight = (8 - 1 / 2, 1 / 2)
    best = brute_force(kept, again, blocks, room, base, weight)
    mix = choose(TABLE, kept, again, blocks, room, base, weight)
    assert best is not None and mix is not None
    assert mix.blocks.sum(axis=1).tolist() == blocks.tolist()
    assert ((mix.blocks * kept).sum(axis=1) <= room * (1 + 1e-6)).all()
    repeated = mix.blocks @ again
    ours = weight[0] * float((base + repeated).max()) + weight[1] * float(repeated.sum())
    assert ours == pytest.approx(best, rel=1e-5)


def test_no_mix_fits():
    kept = np.array([[4.0, 3.0, 2.0, 1.0]])
    assert choose(TABLE, kept, np.arange(4.0), np.array([3]), np.array([2.9]), np.array([1.0]), (1.0, 0.0)) is None


def test_rungs_are_what_no_other_choice_beats():
    rng = np.random.default_rng(0)
    kept, again = rng.uniform(1, 10, (5, 12)), rng.uniform(0, 1, (5, 12))
    rungs = Rungs.of([Choice((str(i),)) for i in range(12)], kept, again)
    for u in range(5):
        beaten = [
            any(
                (k <= kept[u, i] and a <= again[u, i])
                for j, (k, a) in enumerate(zip(kept[u], again[u], strict=True))
                if j != i
            )
            for i in range(12)
        ]
        expected = sorted((i for i in range(12) if not beaten[i]), key=lambda i: -kept[u, i])
        assert rungs.choice[u, : rungs.count[u]].tolist() == expected


def test_choices_mean_something_of_their_own():
    found = choices(PRESETS["pangu-ultra-135b"])
    assert found[0] == NONE and len(set(found)) == len(found)
    assert all(c.plan.mode in ("none", "full", "selective") for c in found)
    assert [c.label for c in choices(PRESETS["tiny"], ("ffn+norms",))] == ["ffn+norms", "ffn+norms, collectives kept"]


def test_an_unknown_part_is_refused():
    config: ModelConfig = PRESETS["tiny"]
    with pytest.raises(AthanorError, match="soup"):
        choices(config, ("soup",))

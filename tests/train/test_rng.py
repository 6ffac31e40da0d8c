"""Random states come back exactly, through the form a checkpoint stores."""

import json
import random

import numpy as np
import torch

from athanor.train.checkpoint import join_state, split_state
from athanor.train.rng import rng_state, seed_all, set_rng_state


def draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.randn(()))


def test_states_come_back_through_json_and_tensors():
    seed_all(7)
    first = draw()
    tree, tensors = split_state(rng_state(torch.device("cpu")))
    expected = [draw() for _ in range(3)]
    set_rng_state(join_state(json.loads(json.dumps(tree)), tensors), torch.device("cpu"))
    assert [draw() for _ in range(3)] == expected
    seed_all(7)
    assert draw() == first

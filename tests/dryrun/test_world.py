"""A fake world, and the answers for what only data could tell."""

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode

from athanor.dryrun.world import Answers, fake_world
from athanor.errors import AthanorError


def test_any_rank_of_a_large_world():
    with fake_world(8192, 8191):
        assert (dist.get_rank(), dist.get_world_size()) == (8191, 8192)
        names: list = [None] * 8192
        dist.all_gather_object(names, ["mine"])
        assert names[8191] == ["mine"] and names[0] == []
    assert not dist.is_initialized()
    assert dist.all_gather_object.__module__.startswith("torch")


def test_bad_ranks():
    with pytest.raises(AthanorError, match="rank 4 of 4"), fake_world(4, 4):
        pass
    with (
        fake_world(2, 0),
        pytest.raises(AthanorError, match="a rank of a real run"),
        fake_world(2, 0),
    ):
        pass


def test_answers():
    with FakeTensorMode(allow_non_fake_inputs=True), Answers():
        ids = torch.zeros(3, 4, dtype=torch.int64)
        assert (ids != -100).nonzero().shape == (12, 2)
        counts = torch.bincount(ids.flatten(), minlength=5)
        assert counts.tolist() == [3, 3, 2, 2, 2]  # even, what remains to the first
        assert torch.tensor([7, 9])[1].item() == 9  # numbers that are known stay known
        assert float(torch.zeros(())) == 0.0

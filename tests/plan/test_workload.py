"""Ranks, groups and their names against torch's own device mesh."""

import pytest

from athanor.dryrun.world import fake_world
from athanor.errors import AthanorError
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan
from athanor.plan.routing import even, received_rows
from athanor.plan.workload import axis_of, coordinates, group_of
from tests.dryrun.shapes import work

NAMES = {
    "tp": ("tp",), "cp": ("cp",), "pp": ("pp",), "dp": ("dp_replicate", "dp_shard"), "fsdp": ("dp_shard", "cp"),
    "loss": ("dp_replicate", "dp_shard", "cp"), "ep": ("ep",), "expert_fsdp": ("expert_fsdp",),
}  # fmt: skip


@pytest.mark.parametrize("rank", [0, 21, 63])
def test_groups_are_those_of_the_mesh(rank):
    import torch
    import torch.distributed as dist

    plan = ParallelPlan(pp=2, dp_replicate=2, dp_shard=4, cp=2, tp=2, ep=4)
    with fake_world(64, rank):
        ranks = Ranks.of(plan, torch.device("cpu"))
        at = coordinates(plan, rank)
        for name, dims in NAMES.items():
            assert group_of(plan, rank, dims) == dist.get_process_group_ranks(ranks.group(name)), name
            if name in at:
                assert at[name] == ranks.at(name)


def test_names_of_groups():
    plan = ParallelPlan(pp=2, dp_shard=4, tp=2, ep=2)
    assert axis_of(plan, group_of(plan, 5, ("tp",))) == "tp"
    assert axis_of(plan, group_of(plan, 5, ("dp_replicate", "dp_shard", "cp"))) == "dp_shard"
    assert axis_of(plan, group_of(plan, 5, ("ep",))) == "ep"
    assert axis_of(plan, group_of(plan, 5, ("cp",))) == "none"
    assert axis_of(plan, range(16)) == "pp·dp_shard·tp"


def test_even_routing():
    assert even(10, 4) == [3, 3, 2, 2]
    assert sum(received_rows(10, 4, 2, at) for at in range(2)) == 2 * 10


def test_documents_of_a_row():
    assert work({}, doc_len=24).doc_lens == (24, 24, 16)
    with pytest.raises(AthanorError, match="documents of 100 tokens"):
        work({}, doc_len=100)

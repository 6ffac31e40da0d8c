"""Collectives against a ring that is walked step by step, and what fabric and network share."""

from __future__ import annotations

import pytest

from athanor.errors import AthanorError
from athanor.plan.cluster import Cluster, load_cluster
from athanor.plan.collectives import Links


@pytest.fixture
def cluster() -> Cluster:
    cluster = load_cluster("h100-1024")
    assert cluster.network is not None
    return cluster.model_copy(
        update={
            "node": cluster.node.model_copy(update={"efficiency": 1.0}),
            "network": cluster.network.model_copy(update={"efficiency": 1.0}),
            "device": cluster.device.model_copy(update={"launch_s": 0.0}),
        }
    )


def _walked_ring(cluster: Cluster, size: int, stride: int, nbytes: float) -> float:
    """An all-gather walked step by step: every member sends a piece to the next, all groups of all nodes at once."""
    node, network = cluster.node, cluster.network
    assert network is not None
    group = [i * stride for i in range(size)]
    node_of = [rank // node.devices for rank in group]
    leaving = sum(a != b for a, b in zip(node_of, node_of[1:] + node_of[:1], strict=True))
    total = 0.0
    for _ in range(size - 1):
        times = []
        for here, there in zip(node_of, node_of[1:] + node_of[:1], strict=True):
            if here == there:
                times.append(nbytes / size / node.bytes_per_s + node.latency_s)
            else:
                # Groups with a stride below the node's size lie side by side, one link out of a node each; all of a
                # node's NICs serve them together.
                side_by_side = min(stride, node.devices)
                rate = network.nics * network.bytes_per_s / side_by_side
                times.append(nbytes / size / rate + network.latency_s)
        total += max(times)
    assert leaving == 0 or leaving == len(set(node_of))
    return total


@pytest.mark.parametrize(
    ("size", "stride"), [(2, 1), (8, 1), (4, 2), (16, 1), (32, 1), (64, 8), (16, 4), (128, 8), (8, 16)]
)
def test_an_all_gather_takes_the_time_of_its_ring(cluster: Cluster, size: int, stride: int):
    links = Links(cluster)
    nbytes = 1e9
    seconds = float(links.all_gather_s(nbytes, links.group(size, stride)))
    expected = _walked_ring(cluster, size, stride, nbytes)
    if stride < 8 < size * stride:
        # The walk adds the slowest link's latency and bytes in each step; so does the formula, by its parts.
        assert seconds == pytest.approx(expected, rel=0.02)
    else:
        assert seconds == pytest.approx(expected, rel=1e-9)


def test_a_sum_moves_twice_the_bytes_in_few_steps_where_trees_win(cluster: Cluster):
    links = Links(cluster)
    group = links.group(8, 1)
    assert float(links.all_reduce_s(1e9, group)) == pytest.approx(2 * 1e9 * 7 / 8 / 450e9 + 12 * 3e-6)
    far = links.group(1024, 8)
    assert float(links.all_reduce_s(8.0, far)) < 0.05 * float(links.all_gather_s(8.0, far))
    assert float(links.all_reduce_s(1e9, links.group(1, 1))) == 0.0


def test_a_full_mesh_gives_small_groups_only_their_links():
    ascend = load_cluster("ascend-910b-8192")
    links = Links(ascend)
    latency = ascend.node.latency_s + ascend.device.launch_s
    pair = float(links.all_gather_s(1e9, links.group(2, 1))) - latency
    # One link of seven: 28 GB/s, for half of the bytes.
    assert pair == pytest.approx(0.5e9 / (28e9 * ascend.node.efficiency))


def test_oversubscription_counts_above_the_leaf_switches():
    cluster = load_cluster("h100-16384")
    assert cluster.network is not None
    links = Links(cluster)
    below, above = links.group(cluster.network.leaf_nodes, 8), links.group(cluster.network.leaf_nodes * 2, 8)
    slow = float(links.all_gather_s(1e9, above) - links.all_gather_s(0.0, above))
    fast = float(links.all_gather_s(1e9, below) - links.all_gather_s(0.0, below))
    assert slow / fast == pytest.approx(7, rel=0.01)


def test_all_to_all_splits_bytes_between_fabric_and_network(cluster: Cluster):
    links = Links(cluster)
    inside = float(links.all_to_all_s(8e9, links.group(8, 1)))
    assert inside == pytest.approx(7e9 / 450e9 + 3e-6)
    across = float(links.all_to_all_s(16e9, links.group(16, 1)))
    assert across == pytest.approx(8e9 / 50e9 + 8e-6)  # half leaves the node; each device has a NIC


def test_a_group_that_leaves_a_machine_without_network_is_told():
    with pytest.raises(AthanorError, match="network"):
        Links(load_cluster("laptop")).group(4, 1)

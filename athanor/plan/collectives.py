"""Seconds of collectives, for arrays of groups: latency of the steps plus bytes over the narrowest way.

A group of g ranks with a stride between neighbours (ranks inside one another: tp 1, cp tp, data tp·cp, …) has l members
in a node and spans k = g / l nodes. Inside a node bytes go over the fabric, between nodes over the node's NICs, which
all groups of that node share: with l members each, node.devices / l groups work at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from athanor.errors import AthanorError
from athanor.plan.cluster import Cluster

Floats = NDArray[np.float64]
#: Which parallelism a collective serves, where that makes a difference: how the engine calls it, what it copies.
Way = Literal["", "tensor", "data"]


@dataclass(frozen=True, slots=True)
class Group:
    """Where the ranks of a collective are. All arrays [N]."""

    size: Floats
    local: Floats  #: members in one node
    nodes: Floats


class Links:
    """Collectives on the fabric and network of ``cluster``."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.node, self.network = cluster, cluster.node, cluster.network
        rows: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for point in self.node.points:
            rows.setdefault((point.kind, point.ranks), []).append((point.nbytes, point.seconds))
        self._curves = {key: np.array(sorted(pairs)).T for key, pairs in rows.items()}

    def group(self, size: ArrayLike, stride: ArrayLike) -> Group:
        """Ranks 0, stride, 2·stride … (size of them), nodes filled in order of rank."""
        size, stride = np.asarray(size, np.float64), np.asarray(stride, np.float64)
        local = np.clip(np.floor(self.node.devices / stride), 1, size)
        nodes = np.ceil(size / local)
        if self.network is None and bool((nodes > 1).any()):
            raise AthanorError(
                f"a group of {int(size.max())} ranks does not fit into a node of {self.node.devices} devices",
                where=self.cluster.name,
                fix="a cluster file with a network section",
            )
        return Group(size, local, nodes)

    def _fabric(self, local: Floats) -> Floats:
        """Bytes/s a device sends inside its node when ``local`` devices of a group take part."""
        rate = self.node.bytes_per_s * self.node.efficiency
        if self.node.fabric == "full_mesh":
            # Each pair has its own link, so that a small group reaches only the links to its members.
            return np.asarray(rate * np.minimum(1.0, np.maximum(local - 1, 1) / max(self.node.devices - 1, 1)))
        if self.node.fabric == "pcie":
            # Every byte passes the host: in from one device, out to another.
            return np.asarray(np.full_like(local, rate / 2))
        return np.asarray(np.full_like(local, rate))

    def _nic(self, group: Group) -> Floats:
        """Bytes/s of a group between nodes: its share of the NICs, less of the upper links where it leaves a leaf."""
        if self.network is None:
            return np.full_like(group.size, np.inf)
        sharing = np.maximum(self.node.devices / group.local, 1.0)
        rate = self.network.nics * self.network.bytes_per_s * self.network.efficiency / sharing
        upper = group.nodes > self.network.leaf_nodes
        return np.asarray(rate / np.where(upper, self.network.oversubscription, 1.0))

    def _step(self, group: Group) -> Floats:
        """Latency of one step in which every member sends to its neighbour: the slowest link's."""
        between = self.network.latency_s if self.network is not None else 0.0
        return np.asarray(np.where(group.nodes > 1, between, self.node.latency_s))

    def all_gather_s(self, nbytes: ArrayLike, group: Group, way: Way = "") -> Floats:
        """``nbytes``: of the gathered tensor. A ring: g−1 steps, (g−1)/g of the bytes over every link. ``way``: which
        parallelism asks, where its collectives were measured by themselves."""
        return self._ring_collective_s("all_gather", nbytes, group, way)

    def reduce_scatter_s(self, nbytes: ArrayLike, group: Group, way: Way = "") -> Floats:
        """``nbytes``: of the scattered tensor. As many steps and bytes as an all-gather."""
        return self._ring_collective_s("reduce_scatter", nbytes, group, way)

    def _ring_collective_s(self, kind: str, nbytes: ArrayLike, group: Group, way: Way) -> Floats:
        nbytes = np.asarray(nbytes, np.float64)
        time = self._ring_s(nbytes, group) + (group.size - 1) * self._step(group)
        time = np.where(group.size > 1, time + self.cluster.device.launch_s, 0.0)
        return self._measured(kind, way, nbytes, group, time)

    def _measured(self, kind: str, way: Way, nbytes: Floats, group: Group, formula: Floats) -> Floats:
        """``formula``, but for groups of a size that was measured: straight lines between the points, the first point
        below them, the last line's slope above."""
        known = [key for key in self._curves if key[0] == f"{way}_{kind}"] if way else []
        for key in known or [key for key in self._curves if key[0] == kind]:
            at, seconds = self._curves[key]
            found = np.interp(nbytes, at, seconds)
            last = seconds[-1] / at[-1] if len(at) == 1 else max(seconds[-1] - seconds[-2], 0.0) / (at[-1] - at[-2])
            found = found + last * np.maximum(nbytes - at[-1], 0.0)
            formula = np.where((group.size == key[1]) & (group.nodes == 1), found, formula)
        return np.asarray(formula)

    def _ring_s(self, nbytes: Floats, group: Group) -> Floats:
        moved = nbytes * (group.size - 1) / group.size
        time = np.where(group.local > 1, moved / self._fabric(group.local), 0.0)
        return np.maximum(time, np.where(group.nodes > 1, moved / self._nic(group), 0.0))

    def all_reduce_s(self, nbytes: ArrayLike, group: Group, way: Way = "") -> Floats:
        """A reduce-scatter and an all-gather in a ring; the same bytes in fewer steps by trees where those win."""
        steps = np.minimum(2 * (group.size - 1), 4 * np.ceil(np.log2(np.maximum(group.size, 1))))
        nbytes = np.asarray(nbytes, np.float64)
        time = 2 * self._ring_s(nbytes, group) + steps * self._step(group)
        time = np.where(group.size > 1, time + self.cluster.device.launch_s, 0.0)
        return self._measured("all_reduce", way, nbytes, group, time)

    def all_to_all_s(self, nbytes: ArrayLike, group: Group) -> Floats:
        """``nbytes``: what a rank sends in all, 1/g of it to each."""
        nbytes = np.asarray(nbytes, np.float64)
        inside = nbytes * (group.local - 1) / group.size
        if self.node.fabric == "ring":
            inside = inside * np.maximum(group.local / 4, 1)  # a message passes a quarter of the ring on average
        outside = nbytes * (group.size - group.local) / group.size
        time = np.maximum(inside / self._fabric(group.local), outside * group.local / self._nic(group))
        time = np.where(group.size > 1, time + self._step(group) + self.cluster.device.launch_s, 0.0)
        return self._measured("all_to_all", "", nbytes, group, time)

    def send_s(self, nbytes: ArrayLike, stride: ArrayLike) -> Floats:
        """To the rank ``stride`` further on, while every device of the node sends likewise."""
        nbytes, stride = np.asarray(nbytes, np.float64), np.asarray(stride, np.float64)
        near = nbytes / (self.node.bytes_per_s * self.node.efficiency) + self.node.latency_s
        if self.network is None:
            return np.asarray(near)
        rate = self.network.nics * self.network.bytes_per_s * self.network.efficiency / self.node.devices
        far = nbytes / rate + self.network.latency_s
        return np.asarray(np.where(stride < self.node.devices, near, far))

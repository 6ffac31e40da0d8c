"""Seconds of single operations on one device, for arrays of sizes: products, fused attention, work bound by memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from athanor.errors import AthanorError
from athanor.plan.cluster import Device, Dtype

Floats = NDArray[np.float64]

#: Tiles that a library can choose, as parts of the largest, with their speed: one half as large reads each operand more
#: often for the same work.
_TILES = ((1.0, 1.0, 1.0), (1.0, 0.5, 0.93), (0.5, 0.5, 0.8))

#: Odd multipliers that turn (m, n, k) into one number; equality is checked after the search.
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9))


@dataclass(slots=True)
class Misses:
    """Shapes of products that have no measured point, with how often each was asked for."""

    shapes: Counter[tuple[int, int, int, str]] = field(default_factory=Counter)
    hits: int = 0

    @property
    def total(self) -> int:
        """Times that interpolation took the place of a measured point."""
        return sum(self.shapes.values())

    def lines(self, most: int = 20) -> list[str]:
        """``m × n × k dtype: times``, most asked first."""
        return [f"{m} × {n} × {k} {t}: {c}" for (m, n, k, t), c in self.shapes.most_common(most)]


class Ops:
    """Costs on ``device``. ``misses``: where to note shapes without a measured point (None: nowhere; faster)."""

    def __init__(self, device: Device, misses: Misses | None = None) -> None:
        self.device, self.misses = device, misses
        table = device.matmul
        self._sizes = np.log([p.flops for p in table.by_size])
        self._shares = np.array([p.efficiency for p in table.by_size])
        self._points: dict[str, tuple[NDArray[np.uint64], NDArray[np.int64], Floats]] = {}
        for dtype in {p.dtype for p in table.points}:
            rows = [p for p in table.points if p.dtype == dtype]
            shapes = np.array([(p.m, p.n, p.k) for p in rows], np.int64)
            keys = _keys(*shapes.T)
            order = np.argsort(keys)
            self._points[dtype] = keys[order], shapes[order], np.array([p.efficiency for p in rows])[order]

    def peak(self, dtype: Dtype) -> float:
        """FLOP/s of ``dtype``; AthanorError where the device has no such figure."""
        peaks = self.device.peak_flops_per_s
        if dtype not in peaks:
            raise AthanorError(
                f"{self.device.name} has no peak for {dtype}",
                where="device.peak_flops_per_s",
                fix=f"it has {', '.join(peaks)}",
            )
        return peaks[dtype]

    def efficiency(self, m: ArrayLike, n: ArrayLike, k: ArrayLike, dtype: Dtype) -> Floats:
        """Share of the peak that [m, k] @ [k, n] reaches: a measured point, or else by size and shape."""
        m, n, k = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (m, n, k)))
        table = self.device.matmul
        share = np.interp(np.log(np.maximum(2.0 * m * n * k, 1.0)), self._sizes, self._shares)
        share = share * (k / (k + table.half_k)) * table.dtype_factor.get(dtype, 1.0)
        if table.units:
            share = share * self._tiles(m, n)
        return self._exact(m, n, k, dtype, share)

    def _tiles(self, m: Floats, n: Floats) -> Floats:
        """Share of a device's units that tiles keep busy, edges and last wave counted. Libraries choose a smaller tile,
        whose main loop is slower, where it fills the device better."""
        table = self.device.matmul
        best = np.zeros(m.shape)
        for rows, columns, speed in _TILES:
            high, wide = table.tile_m * rows, table.tile_n * columns
            tiles = np.maximum(np.ceil(m / high) * np.ceil(n / wide), 1)
            filled = (m * n) / (tiles * high * wide) * tiles / (np.ceil(tiles / table.units) * table.units)
            best = np.maximum(best, speed * np.minimum(filled, 1.0))
        return best

    def _exact(self, m: Floats, n: Floats, k: Floats, dtype: Dtype, share: Floats) -> Floats:
        found = np.zeros(share.shape, bool)
        shapes = [x.astype(np.int64) for x in (m, n, k)]
        if dtype in self._points:
            keys, points, shares = self._points[dtype]
            at = np.minimum(np.searchsorted(keys, _keys(*shapes)), len(keys) - 1)
            found = np.all([points[at, i] == shapes[i] for i in range(3)], axis=0)
            share = np.where(found, shares[at], share)
        if self.misses is not None:
            self.misses.hits += int(found.sum())
            for shape in zip(*(x[~found].tolist() for x in shapes), strict=True):
                self.misses.shapes[(*shape, dtype)] += 1
        return share

    def matmul_s(
        self, m: ArrayLike, n: ArrayLike, k: ArrayLike, dtype: Dtype, out_bytes: float = 2, count: ArrayLike = 1
    ) -> Floats:
        """Seconds of ``count`` products [m, k] @ [k, n] in one launch: the slower of arithmetic and memory."""
        m, n, k, count = (np.asarray(x, np.float64) for x in (m, n, k, count))
        in_bytes = {"fp32": 4, "tf32": 4, "fp8": 1}.get(dtype, 2)
        # Many small products fill the device together, so that their size counts as one.
        rate = self.peak(dtype) * self.efficiency(m * count, n, k, dtype)
        moved = count * (in_bytes * (m * k + k * n) + out_bytes * m * n)
        busy = np.maximum(2.0 * count * m * n * k / np.maximum(rate, 1.0), moved / self.device.memory_bytes_per_s)
        return np.asarray(np.where(m * n * k * count > 0, busy + self.device.launch_s, 0.0))

    def attention_s(self, flops: ArrayLike, keys: ArrayLike, dtype: Dtype, backward: bool) -> Floats:
        """Seconds of fused attention of ``flops`` operations whose queries see ``keys`` keys on average."""
        keys, flops = np.asarray(keys, np.float64), np.asarray(flops, np.float64)
        kernel = self.device.attention
        share = (kernel.backward if backward else kernel.forward) * keys / (keys + kernel.half_length)
        # fp8 training leaves attention in bfloat16.
        rate = self.peak("bf16" if dtype == "fp8" else dtype) * share
        return np.asarray(flops / np.maximum(rate, 1.0) + self.device.launch_s)

    def memory_s(self, moved: ArrayLike, kind: str, launches: ArrayLike = 1) -> Floats:
        """Seconds to read and write ``moved`` bytes; ``kind``: elementwise, norm, softmax or optimizer."""
        share = getattr(self.device.memory_bound, kind)
        rate = self.device.memory_bytes_per_s * share
        return np.asarray(np.asarray(moved, np.float64) / rate + np.asarray(launches) * self.device.launch_s)


def _keys(m: NDArray[np.int64], n: NDArray[np.int64], k: NDArray[np.int64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        mixed = [x.astype(np.uint64) * odd for x, odd in zip((m, n, k), _MIX, strict=True)]
    return mixed[0] ^ mixed[1] ^ mixed[2]

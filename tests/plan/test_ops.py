"""Single operations: measured points win, misses are noted, the roofline holds."""

from __future__ import annotations

import numpy as np
import pytest

from athanor.errors import AthanorError
from athanor.plan.cluster import Device, MatmulPoint, load_cluster
from athanor.plan.ops import Misses, Ops


@pytest.fixture
def device() -> Device:
    device = load_cluster("h100-8").device
    points = (
        MatmulPoint(m=4096, n=4096, k=4096, efficiency=0.7),
        MatmulPoint(m=512, n=4096, k=1024, efficiency=0.3),
        MatmulPoint(m=4096, n=4096, k=4096, dtype="fp8", efficiency=0.6),
    )
    return device.model_copy(update={"matmul": device.matmul.model_copy(update={"points": points})})


def test_a_measured_shape_has_its_measured_rate(device: Device):
    misses = Misses()
    ops = Ops(device, misses)
    shares = ops.efficiency([4096, 512, 512], [4096, 4096, 1024], [4096, 1024, 4096], "bf16")
    assert shares[:2].tolist() == [0.7, 0.3]
    assert shares[2] != 0.3  # the same operations in another shape
    assert ops.efficiency(4096, 4096, 4096, "fp8") == 0.6
    assert (misses.hits, misses.total) == (3, 1)
    ops.efficiency([512, 512], 1024, 4096, "bf16")
    assert misses.lines() == ["512 × 1024 × 4096 bf16: 3"]
    seconds = ops.matmul_s(4096, 4096, 4096, "bf16")
    assert seconds == pytest.approx(2 * 4096**3 / (0.7 * 989e12) + device.launch_s)


def test_interpolation_is_between_its_neighbours_and_level_beyond(device: Device):
    plain = device.model_copy(update={"matmul": device.matmul.model_copy(update={"units": 0, "half_k": 0.0})})
    ops, points = Ops(plain), plain.matmul.by_size
    for low, high in zip(points, points[1:], strict=False):
        side = (low.flops * high.flops / 4) ** (1 / 6)  # the geometric middle, as a cube
        assert ops.efficiency(side, side, side, "bf16") == pytest.approx(
            (low.efficiency + high.efficiency) / 2, rel=1e-6
        )
    assert ops.efficiency(1, 1, 1, "bf16") == points[0].efficiency
    assert ops.efficiency(1e6, 1e6, 1e6, "bf16") == points[-1].efficiency


def test_last_wave_and_edges_of_tiles_cost(device: Device):
    ops = Ops(device)
    tile, units = device.matmul.tile_m, device.matmul.units
    whole = ops.efficiency(tile * units, device.matmul.tile_n, 4096, "bf16")
    assert ops.efficiency(tile * units + 1, device.matmul.tile_n, 4096, "bf16") < 0.85 * whole
    assert ops.efficiency(tile * units, device.matmul.tile_n, 64, "bf16") < whole


def test_a_thin_product_takes_the_time_of_its_bytes(device: Device):
    seconds = Ops(device).matmul_s(1, 16384, 16384, "bf16")
    assert seconds >= 2 * 16384**2 / device.memory_bytes_per_s
    assert Ops(device).matmul_s(0, 16384, 16384, "bf16") == 0.0


def test_attention_and_memory(device: Device):
    ops = Ops(device)
    kernel = device.attention
    expected = 1e12 / (989e12 * kernel.forward * 2048 / (2048 + kernel.half_length)) + device.launch_s
    assert ops.attention_s(1e12, 2048, "bf16", backward=False) == pytest.approx(expected)
    moved = ops.memory_s(3.35e9, "norm", launches=3)
    assert moved == pytest.approx(1e-3 / device.memory_bound.norm + 3 * device.launch_s)


def test_a_dtype_without_a_peak_is_told():
    with pytest.raises(AthanorError, match="no peak for fp8"):
        Ops(load_cluster("a100-3072").device).matmul_s(8, 8, 8, "fp8")


def test_arrays_and_numbers_agree(device: Device):
    rng = np.random.default_rng(0)
    m, n, k = rng.integers(1, 9000, (3, 50))
    together = Ops(device).matmul_s(m, n, k, "bf16")
    assert together.tolist() == [float(Ops(device).matmul_s(*shape, "bf16")) for shape in zip(m, n, k, strict=True)]

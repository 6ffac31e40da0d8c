"""Cluster files: shipped ones open, units are strict, and what is wrong is named with its line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from athanor.errors import AthanorError
from athanor.plan.cluster import load_cluster, shipped_clusters
from athanor.plan.quantities import parse_quantity

NAMES = {"ascend-910b-8192", "h100-8", "h100-1024", "h100-16384", "a100-3072", "h200-1", "b200-8", "laptop"}


def test_shipped_files_open_by_name():
    assert set(shipped_clusters()) >= NAMES
    for name in shipped_clusters():
        cluster = load_cluster(name)
        assert cluster.name == name and cluster.devices >= 1


def test_published_figures_of_a_device():
    h100 = load_cluster("h100-1024")  # data sheet: 989.4 dense bf16, 3.35 TB/s, 900 GB/s NVLink, 400 Gbit/s NICs
    assert (h100.nodes, h100.device.peak_flops_per_s["bf16"]) == (128, 989e12)
    assert h100.network is not None and h100.network.bytes_per_s == 50e9
    assert load_cluster("ascend-910b-8192").device.memory_bytes == 64 * 2**30


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("989 TFLOP/s", "FLOP/s", 989e12),
        ("80 GiB", "bytes", 80 * 2**30),
        ("80GB", "bytes", 80e9),
        ("400 Gbit/s", "bytes/s", 50e9),
        ("5 us", "s", 5e-6),
        (1_000, "bytes", 1000.0),
        ("1.5e3 kB", "bytes", 1.5e6),
    ],
)
def test_units(text: object, kind: str, value: float):
    assert parse_quantity(text, kind) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["80", "80 GQ", "80 gb", "GiB", "", True, None, "nan GiB", "80 Gbit/s"])
def test_no_unit_or_a_wrong_one_is_refused(text: object):
    with pytest.raises(ValueError):
        parse_quantity(text, "bytes")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("device: {memory_bytes: 80 GQ}", ("c.yaml:2", "device.memory_bytes", "GQ")),
        ("device: {memory_bytes: -80 GiB}", ("c.yaml:2", "device.memory_bytes", "greater than 0")),
        ("device:\n  launch_s: -1 us", ("c.yaml:3", "device.launch_s")),
        ("device:\n  lunch_s: 1 us", ("c.yaml:3", "launch_s")),
        ("node: {fabric: mesh}", ("c.yaml:2", "full_mesh")),
        ("devices: '8'", ("c.yaml:2", "integer")),
        ("network: {oversubscription: 0.5}", ("c.yaml:2", "network.oversubscription")),
        ("device: {matmul: {by_size: []}}", ("c.yaml:2", "by_size")),
        ("device: {matmul: {by_size: [{flops: 2 GFLOP, efficiency: 1}, {flops: 1 GFLOP, efficiency: 1}]}}", ("small",)),
        ("devices: 16\nnetwork: null", ("no network",)),
        ("devices: .nan", ("c.yaml:2", "finite")),
    ],
)
def test_a_wrong_figure_is_named_with_its_line(tmp_path: Path, text: str, told: tuple[str, ...]):
    path = tmp_path / "c.yaml"
    path.write_text(f"base: h100-8\n{text}\n")
    with pytest.raises(AthanorError) as error:
        load_cluster(path)
    for word in told:
        assert word in str(error.value)


def test_missing_figures_and_files_are_named(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("name: x\ndevices: 8\n")
    with pytest.raises(AthanorError, match="needs 'device'"):
        load_cluster(path)
    with pytest.raises(AthanorError, match="did you mean h100-1024"):
        load_cluster("h100-1025")
    path.write_text(f"base: {path}\n")
    with pytest.raises(AthanorError, match="circle"):
        load_cluster(path)


def test_base_lies_below_and_keeps_its_other_figures(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("base: a100-3072\nname: mine\ndevices: 16\nnetwork: {nics: 4}\n")
    (tmp_path / "more.yaml").write_text("base: mine.yaml\ndevices: 64\n")
    cluster = load_cluster(tmp_path / "more.yaml")
    assert (cluster.name, cluster.devices, cluster.nodes) == ("mine", 64, 8)
    assert cluster.network is not None and (cluster.network.nics, cluster.network.bytes_per_s) == (4, 25e9)


def test_resized_keeps_to_what_the_machine_has():
    assert load_cluster("a100-3072").resized(512).nodes == 64
    with pytest.raises(AthanorError, match="network"):
        load_cluster("laptop").resized(16)
    with pytest.raises(AthanorError):
        load_cluster("laptop").resized(0)

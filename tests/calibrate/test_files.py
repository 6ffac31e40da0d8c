"""A calibrated cluster is written as it is read."""

from __future__ import annotations

from pathlib import Path

from athanor.calibrate.files import as_yaml, write_cluster
from athanor.plan.cluster import MatmulPoint, load_cluster, shipped_clusters


def test_every_cluster_comes_back_from_its_file(tmp_path: Path):
    for name in shipped_clusters():
        cluster = load_cluster(name)
        assert load_cluster(write_cluster(cluster, tmp_path / "sub" / f"{name}.yaml")) == cluster


def test_points_are_lines_of_a_table(tmp_path: Path):
    laptop = load_cluster("laptop")
    points = tuple(MatmulPoint(m=m, n=7, k=9, dtype="fp32", efficiency=0.5) for m in (1, 2, 3))
    matmul = laptop.device.matmul.model_copy(update={"points": points})
    cluster = laptop.model_copy(update={"device": laptop.device.model_copy(update={"matmul": matmul})})
    assert sum("{m: " in line for line in as_yaml(cluster).splitlines()) == 3
    assert load_cluster(write_cluster(cluster, tmp_path / "points.yaml")) == cluster

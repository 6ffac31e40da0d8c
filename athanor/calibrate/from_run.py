"""A cluster corrected by what a run measured: predicted and measured step times of its stages set apart.

A factor on compute explains a run on one process. Over several, it cannot be told from step times alone what was slow;
so compute and collectives are slowed alike. Documents, batches and layout are those that the run wrote down.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from athanor.errors import AthanorError
from athanor.plan.cluster import Cluster, load_cluster
from athanor.report.predicted import Beside, compare
from athanor.report.read import read_run


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """The corrected cluster, the stages that it comes from, and how many times as long everything takes."""

    cluster: Cluster
    stages: tuple[Beside, ...]
    factor: float


def recalibrate(run_dir: str | Path, base: Cluster | None = None) -> Recalibrated:
    """Scale ``base`` (None: the cluster that the run was predicted with) so that the run's predictions would have been
    right: rates by 1/f, latencies by f, with f the median over stages of (measured − waiting for data) / predicted.

    AthanorError where the run has no prediction or no measured step.
    """
    stages = compare(read_run(Path(run_dir)))
    if not stages:
        raise AthanorError(
            "no stage of this run has both a prediction and measured steps",
            where=str(run_dir),
            fix="run `athanor calibrate` first (or set ATHANOR_CLUSTER), then train: predictions are made at the start",
        )
    if base is None:
        base = load_cluster(stages[-1].cluster)
    factor = statistics.median((stage.measured_s - stage.data_s) / stage.predicted_s for stage in stages)
    return Recalibrated(scaled(base, factor, Path(run_dir).name), tuple(stages), factor)


def scaled(cluster: Cluster, factor: float, run: str) -> Cluster:
    """All that happens on ``cluster`` takes ``factor`` times as long."""
    device, node, network = cluster.device, cluster.node, cluster.network
    return cluster.model_copy(
        update={
            "device": device.model_copy(
                update={
                    "peak_flops_per_s": {k: v / factor for k, v in device.peak_flops_per_s.items()},
                    "memory_bytes_per_s": device.memory_bytes_per_s / factor,
                    "launch_s": device.launch_s * factor,
                }
            ),
            "node": node.model_copy(
                update={"bytes_per_s": node.bytes_per_s / factor, "latency_s": node.latency_s * factor}
            ),
            "network": network
            and network.model_copy(
                update={"bytes_per_s": network.bytes_per_s / factor, "latency_s": network.latency_s * factor}
            ),
            "notes": f"{cluster.notes}; times {factor:.4g} after run {run}".lstrip("; "),
        }
    )

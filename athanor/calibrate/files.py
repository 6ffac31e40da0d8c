"""Calibrated clusters as files."""

from __future__ import annotations

from pathlib import Path

import yaml

from athanor.files import write_atomic
from athanor.plan.cluster import Cluster

_HEAD = """\
# {notes}.
# Peaks of a CPU are the best products that were measured; memory_bytes_per_s is the fastest pass over memory in the
# training step (caches help), and the shares of memory_bound are of that. points: exact shapes; others go by_size.
"""


def as_yaml(cluster: Cluster) -> str:
    """Text that ``athanor.plan.cluster.load_cluster`` reads back as the same value."""
    tree = cluster.model_dump(exclude_none=True)
    points = tree["device"]["matmul"].pop("points")
    measured = tree["node"].pop("points")
    text = _HEAD.format(notes=cluster.notes[:1].upper() + cluster.notes[1:]) + yaml.safe_dump(tree, sort_keys=False)
    links = "".join(
        f"  - {{kind: {p['kind']}, ranks: {p['ranks']}, nbytes: {p['nbytes']}, seconds: {p['seconds']}}}\n"
        for p in measured
    )
    if links:
        text = text.replace("\nnode:\n", f"\nnode:\n  points:\n{links}", 1)
    if not points:
        return text
    # One line a point: a hundred shapes are to be read as a table.
    lines = "".join(
        f"    - {{m: {p['m']}, n: {p['n']}, k: {p['k']}, dtype: {p['dtype']}, efficiency: {p['efficiency']}}}\n"
        for p in points
    )
    return text.replace("  matmul:\n", f"  matmul:\n    points:\n{lines}", 1)


def write_cluster(cluster: Cluster, path: Path) -> Path:
    """Write the file under its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, as_yaml(cluster))
    return path

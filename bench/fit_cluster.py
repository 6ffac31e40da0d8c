"""Fit a cluster file's efficiencies to published runs: python bench/fit_cluster.py RUNS.csv CLUSTER

Prints the constants as the lines of the file that they replace. The shipped files' figures came from here, with
``measured_runs.csv``; the method and the priors are in ``athanor/plan/fit.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from athanor.errors import AthanorError
from athanor.plan.fit import CONSTANTS, Fit, fit_runs
from athanor.plan.runs import read_runs


def lines(found: Fit) -> list[str]:
    """The fitted figures as YAML."""
    device, node, network = found.cluster.device, found.cluster.node, found.cluster.network
    points = [f"      - {{flops: {p.flops:g}, efficiency: {p.efficiency:.3f}}}" for p in device.matmul.by_size]
    bound, attention = device.memory_bound, device.attention
    kinds = ", ".join(f"{k}: {getattr(bound, k):.3f}" for k in ("elementwise", "norm", "softmax", "optimizer"))
    return [
        "device:",
        "  matmul:",
        "    by_size:",
        *points,
        f"    half_k: {device.matmul.half_k:.0f}",
        f"  attention: {{forward: {attention.forward:.3f}, backward: {attention.backward:.3f}, "
        f"half_length: {attention.half_length:g}}}",
        f"  memory_bound: {{{kinds}}}",
        f"node: {{efficiency: {node.efficiency:.3f}, contention: {node.contention:.3f}}}",
        *([f"network: {{efficiency: {network.efficiency:.3f}}}"] if network is not None else []),
    ]


def main(arguments: list[str]) -> int:
    """Exit status 2 for bad arguments."""
    if len(arguments) != 2:
        print(__doc__)
        return 2
    path, cluster = arguments
    try:
        found = fit_runs(read_runs(Path(path)), cluster)
    except AthanorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    errors = np.abs(np.expm1(found.errors))
    print(f"# {len(errors)} runs: mean {100 * errors.mean():.1f} %, worst {100 * errors.max():.1f} %")
    for constant in CONSTANTS:
        print(f"# {constant.name}: {found.values[constant.name]:.4g} (typical {constant.typical:g})")
    print("\n".join(lines(found)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""From measured seconds to the shares that the planner's formulas want: the formulas solved for them."""

from __future__ import annotations

from collections.abc import Callable

from athanor.calibrate.reference import DEEP, SHALLOW, BlockTiming
from athanor.model.config import ModelConfig
from athanor.parallel.plan import ParallelPlan
from athanor.plan.cluster import Cluster
from athanor.plan.of_stage import StageBatch, athanor_engine, stage_costs

#: A pass over memory is taken as no faster than this many times what a copy reaches: beyond it, noise speaks.
FASTEST = 4.0


def with_device(cluster: Cluster, **changes: object) -> Cluster:
    """``cluster`` with figures of its device replaced; ``memory_bound`` and ``matmul`` may be partial dicts."""
    device, update = cluster.device, dict(changes)
    for name in ("memory_bound", "matmul"):
        if isinstance(part := update.get(name), dict):
            update[name] = getattr(device, name).model_copy(update=part)
    return cluster.model_copy(update={"device": device.model_copy(update=update)})


def predicted(cluster: Cluster, config: ModelConfig, batch: StageBatch) -> BlockTiming:
    """What the planner says of the reference: a block, and what is no block."""
    one = cluster.resized(1)

    def seconds(layers: int) -> float:
        shape = config.model_copy(update={"num_hidden_layers": layers})
        return float(stage_costs(shape, batch, one, [ParallelPlan()]).pipeline_s[0])

    shallow = seconds(SHALLOW)
    block_s = (seconds(DEEP) - shallow) / (DEEP - SHALLOW)
    return BlockTiming(block_s, shallow - SHALLOW * block_s)


def solve_share(measured_s: float, seconds_at: Callable[[float], float]) -> float:
    """The share x for which ``seconds_at(x)``, which is a + b / x, is ``measured_s``. Where a alone is more than was
    measured, the passes cost next to nothing: then x is as large as is believed."""
    at_one = seconds_at(1.0)
    b = seconds_at(0.5) - at_one
    left = measured_s - (at_one - b)
    return FASTEST if left <= b / FASTEST else b / left


def solve_passes(measured_s: float, seconds_at: Callable[[float], float]) -> float:
    """The factor x ≥ 1 for which ``seconds_at(x)``, a straight line, is ``measured_s``."""
    at_one = seconds_at(1.0)
    slope = seconds_at(2.0) - at_one
    return max(1.0, 1.0 + (measured_s - at_one) / slope)


def memory_shares(
    cluster: Cluster, config: ModelConfig, batch: StageBatch, fused: BlockTiming, plain: BlockTiming | None
) -> dict[str, float]:
    """Shares of ``cluster``'s memory bandwidth (they may be above 1: caches) for elementwise work and norms, for the
    passes over logits, and how many passes operators take that are not fused (``plain``: measured without fusion;
    None: ``fused`` is all there is)."""

    def at(compiled: bool, **shares: float) -> BlockTiming:
        machine = with_device(cluster, memory_bound=shares)
        where = StageBatch(
            batch.seq_len, batch.global_batch_tokens, None, batch.dtype, compiled, documents=batch.documents
        )
        return predicted(machine, config, where)

    found = solve_share(fused.block_s, lambda x: at(True, elementwise=x, norm=x).block_s)
    known = {"elementwise": found, "norm": found}
    known["softmax"] = solve_share(fused.ends_s, lambda x: at(True, **known, softmax=x).ends_s)
    known["unfused_passes"] = 1.0
    if plain is not None:
        known["unfused_passes"] = solve_passes(
            plain.block_s, lambda x: at(False, **known | {"unfused_passes": x}).block_s
        )
    return known


def optimizer_share(cluster: Cluster, parameters: int, seconds: float, dtype: str) -> float:
    """Share of the memory bandwidth of an update of ``parameters`` parameters."""
    moved = athanor_engine(dtype).optimizer_traffic * parameters
    launches = 8 * cluster.device.launch_s
    return moved / max(seconds - launches, seconds / 2) / cluster.device.memory_bytes_per_s

"""The dry run against a real run of the same layout: two processes over gloo, real tensors, the same tracker."""

import gc

import pytest
import torch

from athanor.dryrun.run import dry_run, rows_of, state_bytes, step
from athanor.dryrun.tracker import Tracker
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.parallel.engine import ParallelEngine
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import RecomputePlan
from athanor.plan.workload import axis_of
from athanor.recipe.schema import TrainRecipe
from tests.dryrun.shapes import T, work
from tests.parallel.ranks import run_ranks

TRAIN = TrainRecipe(precision="bf16")
FULL = RecomputePlan(mode="full")
LAYOUTS = {
    "zero 0": {"dp_shard": 2, "zero": 0},
    "zero 1": {"dp_shard": 2, "zero": 1},
    "zero 3, recompute": {"dp_shard": 2, "zero": 3, "recompute": FULL},
    "tp": {"tp": 2},
    "tp without sp": {"tp": 2, "sp": False},
    "cp": {"cp": 2},
    "pp": {"pp": 2},
    "gpipe, recompute": {"pp": 2, "schedule": "gpipe", "recompute": FULL},
}


def _real(plans):
    """On each rank, for each layout: what the tracker saw of one real step."""
    import torch.distributed as dist

    out = []
    for plan in plans:
        at = work(plan)
        ranks = Ranks.of(at.plan, torch.device("cpu"))
        model = Decoder(at.config)
        init_weights(model, seed=0)
        engine = ParallelEngine(model, TRAIN, at.plan, ranks)
        local = sum(p.to_local().numel() * 4 for part in engine.parts for p in part.parameters())
        batches = [engine._local(batch) for batch in rows_of(at)]
        engine._local = lambda batch: batch
        gc.collect()
        gc.disable()
        tracker = Tracker()
        with tracker:
            step(engine, tracker, batches, TRAIN)
        gc.enable()
        calls = {}
        for call, count in tracker.trace.collectives.items():
            if call.size > 1:
                group = dist.distributed_c10d._resolve_process_group(call.group)
                key = call.kind, axis_of(at.plan, dist.get_process_group_ranks(group)), call.n_bytes
                calls[key] = calls.get(key, 0) + count
        peaks = tracker.trace.peak()[0], tracker.trace.peak(["activations"])[0]
        out.append((local, state_bytes(engine), peaks, calls, dict(tracker.trace.flops)))
    return out


@pytest.fixture(scope="module")
def real():
    return run_ranks(2, _real, list(LAYOUTS.values()))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", list(LAYOUTS))
def test_equals_a_real_run(real, name, rank):
    local, states, (peak, activations), calls, flops = real[rank][list(LAYOUTS).index(name)]
    run = dry_run(work(LAYOUTS[name]), TRAIN, rank)
    assert run.state_bytes == states
    assert states["parameters"] >= local  # FSDP pads what does not divide
    # A collective of gloo lets its tensor go a moment after it is done.
    assert run.trace.peak(["activations"])[0] == pytest.approx(activations, rel=0.01)
    # A message that is on its way holds its tensor; nothing is on its way in a fake world.
    stream = 2 * T * 32 * 2
    more = (stream if "pp" in LAYOUTS[name] else 0) + 0.01 * peak
    assert -0.001 * peak <= peak - run.trace.peak()[0] <= more
    # Python objects that ranks tell each other go as bytes over the wire; the dry run leaves them out
    mine = {call: n for call, n in calls.items() if call[0] != "broadcast"}
    assert dict(run.collectives) == mine
    assert run.flops == {phase: flops.get(phase, 0) for phase in run.flops}


def test_the_step_leaves_no_circles():
    """What a step holds is freed without Python's collector: regions of recomputation once were not."""
    names = ("attention", "norms", "ffn")
    plan = {"tp": 2, "recompute": RecomputePlan(mode="selective", names=names)}
    few, many = (dry_run(work(plan, micro_batches=n), TRAIN, 0).trace.peak(["activations"])[0] for n in (1, 4))
    assert many == pytest.approx(few, rel=1e-3)

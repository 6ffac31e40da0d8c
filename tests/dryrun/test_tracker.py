"""The tracker against sums done by hand."""

import gc

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from athanor.dryrun.tracker import Tracker


def _step(w: torch.Tensor, x: torch.Tensor) -> None:
    y = x @ w  # 4 KB, kept for the square's gradient
    loss = (y * y).sum()
    loss.backward()


def _traced(fake: FakeTensorMode | None) -> Tracker:
    tracker = Tracker(fake)
    with fake if fake is not None else torch.enable_grad():
        w, x = torch.empty(32, 32, requires_grad=True), torch.empty(32, 32)
        with tracker:
            tracker.tag([w], "parameters")
            tracker.tag([x], "inputs")
            with tracker.during("forward"):
                _step(w, x)
            tracker.tag([w.grad], "gradients")
            w.grad = None
    return tracker


def test_bytes_by_category_and_time():
    trace = _traced(FakeTensorMode()).trace
    square = 4 * 32 * 32
    assert trace.peak(["parameters"])[0] == trace.peak(["inputs"])[0] == square
    assert trace.peak(["gradients"])[0] == square
    # y is kept; y·y is gone before the backward pass; the loss is one number
    assert trace.peak(["activations"])[0] in (square, square + 4, square + 8)
    total, _, by = trace.peak()
    assert total == sum(by.values()) and by["host"] == 0
    assert [now["gradients"] for _, now in trace.over_time()][-1] == 0  # freed at the end


def test_real_tensors_give_the_same_trace():
    gc.collect()
    fake, real = _traced(FakeTensorMode()).trace, _traced(None).trace
    assert fake.peak() == real.peak()
    assert fake.flops == real.flops


def test_flops_of_forward_and_backward():
    trace = _traced(FakeTensorMode()).trace
    product = 2 * 32**3
    assert trace.flops["forward"] == product
    assert trace.flops["backward"] == product  # x wants no gradient


def test_a_storage_that_is_resized_counts_as_it_is():
    tracker = Tracker()
    with tracker:
        x = torch.empty(100)
        x.untyped_storage().resize_(0)
        x.untyped_storage().resize_(800)
    sizes = [n for _, n in tracker.trace.changes]
    assert sizes == [400, -400, 800]


def test_curve_keeps_the_peak():
    trace = _traced(FakeTensorMode()).trace
    curve = trace.curve(3)
    assert len(curve) <= 3
    assert max(sum(v for k, v in point.items() if k != "event") for point in curve) == trace.peak()[0]

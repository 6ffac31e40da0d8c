"""The shapes that are measured are those that a real step multiplies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from athanor.calibrate import reference
from athanor.calibrate.needed import needed_by
from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.plan.cluster import load_cluster
from athanor.plan.of_stage import StageBatch

CONFIG = ModelConfig(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)


class _Products(TorchDispatchMode):
    """Shapes (m, n, k) of every matrix product that is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, int, int]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            left, right = args[-2:]
            self.shapes.add((left.shape[0], right.shape[1], left.shape[1]))
        return func(*args, **(kwargs or {}))


def test_one_process_needs_the_products_of_its_step():
    batch = StageBatch(64, 128, None, "fp32", False)
    model = Decoder(CONFIG)
    init_weights(model, 0)
    inputs = reference._batch(CONFIG, batch.rows, 64, 64)
    with _Products() as seen:
        loss, _ = model.loss(inputs.input_ids_BT, inputs.labels_BT, inputs.positions_BT, inputs.doc_lens)
        loss.backward()
    needed = needed_by(CONFIG, batch, load_cluster("laptop"), 1)
    assert needed.tokens == {128}
    # A weight's gradient is made as outputs × inputs, and planned as inputs × outputs.
    planned = {(m, n, k) if k != 128 or m == 128 else (n, m, k) for m, n, k in needed.shapes}
    assert planned == seen.shapes


@pytest.mark.parametrize(("world", "halves"), [(1, False), (2, True)])
def test_over_ranks_the_shapes_of_every_layout_are_asked(world: int, halves: bool):
    shapes = needed_by(CONFIG, StageBatch(64, 256, None, "fp32", False), load_cluster("laptop"), world).shapes
    assert any(80 in shape for shape in shapes)
    assert any(40 in shape for shape in shapes) == halves  # the feed-forward cut in two


def test_a_batch_that_no_layout_divides_needs_nothing():
    needed = needed_by(CONFIG, StageBatch(63, 63, None, "fp32", False), load_cluster("laptop"), 2)
    assert needed.shapes == []

"""A sharded model is exported parameter by parameter: a rank never holds much more than its shards and one of them."""

from __future__ import annotations

from typing import Any

import torch

from athanor.dryrun.tracker import Tracker
from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import Decoder
from athanor.model.hf import load_model_dir, save_model_dir
from athanor.model.init import init_weights
from athanor.parallel.engine import ParallelEngine
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan
from athanor.recipe.schema import TrainRecipe
from tests.parallel.ranks import run_ranks

CONFIG = ModelConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=2,
    moe=MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, first_k_dense=1),
)


def whole_weights() -> Decoder:
    model = Decoder(CONFIG)
    init_weights(model, 5)
    return model


def export(keys: dict[str, Any], folder: str) -> tuple[int, int]:
    """Write the ModelDir; (most bytes that gathering made at once on this rank, bytes of its largest parameter)."""
    plan = ParallelPlan(**keys)
    recipe = TrainRecipe(precision="fp32")
    engine = ParallelEngine(whole_weights(), recipe, plan, Ranks.of(plan, torch.device("cpu")))
    tracker = Tracker()
    tracker.tag([p for part in engine.parts for p in part.parameters()], "parameters")
    with tracker:
        engine.export(lambda model: save_model_dir(model, folder))
    # the tracker also sees views of this rank's own shards: those are there already
    made = tracker.trace.peak(["temporary", "communication"])[0]
    return made, max(p.numel() * p.element_size() for p in whole_weights().parameters())


def test_a_sharded_model_is_exported_parameter_by_parameter(tmp_path: Any) -> None:
    expected = {name: p.detach() for name, p in whole_weights().named_parameters()}
    total = sum(p.numel() * p.element_size() for p in expected.values())
    for i, keys in enumerate(({"dp_shard": 2, "tp": 2}, {"pp": 2, "dp_shard": 2, "ep": 2})):
        answers = run_ranks(4, export, keys, str(tmp_path / str(i)), keep=True)
        exported = dict(load_model_dir(tmp_path / str(i)).named_parameters())
        assert exported.keys() == expected.keys()
        assert all(torch.equal(exported[name], value) for name, value in expected.items())
        for made, largest in answers[1:]:  # rank 0 is where the model is meant to be
            assert made <= 3 * largest < total / 8, (keys, made, largest, total)

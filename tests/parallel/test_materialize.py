"""A model that begins on the meta device becomes, shard by shard, the one that a single process has; and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import Decoder
from athanor.model.hf import load_model_dir, open_model_dir, save_model_dir
from athanor.model.init import drawn_later, init_weights
from athanor.parallel.engine import ParallelEngine
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan
from athanor.recipe.schema import TrainRecipe
from tests.parallel import test_parity
from tests.parallel.ranks import run_ranks

MOE = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, num_shared_experts=1, first_k_dense=1)
KINDS: dict[str, dict[str, Any]] = {
    "sandwich": {"norm_placement": "depth_scaled_sandwich", "init": "tiny"},
    "tied": {"tie_word_embeddings": True, "qk_norm": True},
    "moe_bias": {"moe": MOE.model_copy(update={"balance": "bias"}), "norm_placement": "sandwich"},
}
LAYOUTS: list[dict[str, Any]] = [
    {"dp_shard": 4},
    {"dp_shard": 2, "tp": 2},
    {"pp": 2, "dp_shard": 2, "vpp": 2, "schedule": "zbv"},
    {"dp_shard": 2, "tp": 2, "ep": 2, "zero": 0},
    {"dp_replicate": 2, "dp_shard": 2, "offload": "all"},
]


def config(kind: str) -> ModelConfig:
    fields: dict[str, Any] = {
        "vocab_size": 70,
        "hidden_size": 32,
        "intermediate_size": 44,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return ModelConfig(**(fields | KINDS[kind]))


def whole(kind: str) -> Decoder:
    model = Decoder(config(kind))
    init_weights(model, 5)
    return model


def state(model: Decoder) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def built(keys: dict[str, Any], kind: str, source: str | None) -> ParallelEngine:
    """An engine whose model was on meta: drawn, or read from a folder."""
    plan = ParallelPlan(**keys)
    model = drawn_later(config(kind), 5) if source is None else open_model_dir(source)
    assert all(param.is_meta for param in model.parameters())
    return ParallelEngine(model, TrainRecipe(precision="fp32"), plan, Ranks.of(plan, torch.device("cpu")))


def begin(keys: dict[str, Any], kinds: list[str], folder: str) -> list[Any]:
    """Whole models out of shards, begun in both ways; and what is written of them goes to folders."""
    out = []
    for kind in kinds:
        for source in (None, f"{folder}/{kind}"):
            engine = built(keys, kind, source)
            shards = {n: p for part in engine.parts for n, p in part.named_parameters()}
            assert not any(p.is_meta for p in shards.values())
            for part in engine.parts:  # as in the loop, before anything is trained
                assert all(not b.any() for n, b in part.named_buffers() if n.endswith("load"))
            model = engine.whole_model()
            out.append(None if model is None else state(model))
    engine.export(lambda model: save_model_dir(model, f"{folder}/written", max_shard_bytes=40_000))
    return out


@pytest.mark.parametrize("keys", LAYOUTS, ids=lambda keys: "x".join(f"{k}{v}" for k, v in keys.items()))
def test_the_values_of_one_process(keys: dict[str, Any], tmp_path: Path) -> None:
    kinds = ["moe_bias"] if "ep" in keys else list(KINDS)
    for kind in kinds:
        save_model_dir(whole(kind), tmp_path / kind)
    found = run_ranks(4, begin, keys, kinds, str(tmp_path))
    assert all(value is None for rank in found[1:] for value in rank)
    for i, kind in enumerate(kinds):
        want = state(whole(kind))
        for got in found[0][2 * i : 2 * i + 2]:
            assert got.keys() == want.keys()
            assert all(torch.equal(got[name], want[name]) for name in want)
    assert len(list((tmp_path / "written").glob("*.safetensors"))) > 3
    again = state(load_model_dir(tmp_path / "written"))
    assert all(torch.equal(again[name], value) for name, value in state(whole(kinds[-1])).items())


def trained(*what: Any) -> test_parity.Result:
    """The training run of the parity matrix, from a model on meta."""
    make = test_parity.make_model

    def on_meta(kind: str, dtype: torch.dtype, layers: int) -> Decoder:
        return drawn_later(make(kind, dtype, layers).config, 3).to(dtype)

    test_parity.make_model = on_meta  # this process ends with the test
    return test_parity.train(*what)


@pytest.mark.parametrize("keys", [{"dp_shard": 2}, {"pp": 2}, {"dp_shard": 2, "tp": 2}], ids=str)
def test_training_goes_on_from_it(keys: dict[str, Any]) -> None:
    test_parity.compare("moe-bias", keys, run=trained)


class _Largest(TorchDispatchMode):
    """The most bytes that one operation made."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and not isinstance(tensor, DTensor) and not tensor.is_meta:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


def held(keys: dict[str, Any], folder: str) -> tuple[int, int]:
    """(bytes of this rank's shards, the largest storage that building or writing made)."""
    seen = _Largest()
    with seen:
        engine = built(keys, "sandwich", None)
        engine.export(lambda model: save_model_dir(model, folder, max_shard_bytes=10_000))
    locals_ = [p.to_local() if isinstance(p, DTensor) else p for part in engine.parts for p in part.parameters()]
    return sum(p.untyped_storage().nbytes() for p in locals_), seen.bytes


def test_no_rank_holds_more_than_its_part_and_one_tensor(tmp_path: Path) -> None:
    total = sum(p.numel() * 4 for p in whole("sandwich").parameters())
    largest = max(p.numel() * 4 for p in whole("sandwich").parameters())
    for keys in ({"dp_shard": 4}, {"pp": 2, "tp": 2}):
        for shards, made in run_ranks(4, held, keys, str(tmp_path / "m")):
            assert shards < 0.36 * total
            assert made <= max(largest, 0.36 * total) < total / 2


def test_what_was_written_loads_in_transformers(tmp_path: Path) -> None:
    """The streamed directory is the same format as one process writes."""
    run_ranks(2, write, str(tmp_path / "streamed"))
    save_model_dir(whole("tied"), tmp_path / "plain")
    plain, streamed = ((tmp_path / name / "config.json").read_text() for name in ("plain", "streamed"))
    assert json.loads(plain) == json.loads(streamed)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "streamed")
    ids_BT = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids_BT).logits, whole("tied")(ids_BT), atol=1e-5, rtol=1e-5)


def write(folder: str) -> None:
    built({"pp": 2}, "tied", None).export(lambda model: save_model_dir(model, folder))


def test_a_failure_while_writing_ends_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = run_ranks(2, refused, str(tmp_path / "file"))
    assert found[0].startswith(f"{tmp_path}/file: is a file")
    assert found[1].startswith("rank 0: ") and "is a file" in found[1]


def refused(folder: str) -> str:
    try:
        write(folder)
    except AthanorError as error:
        return str(error)
    finally:
        dist.barrier()  # nobody is left behind in a collective
    return ""


def test_a_damaged_directory_is_refused_before_a_rank_has_memory(tmp_path: Path) -> None:
    save_model_dir(whole("sandwich"), tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AthanorError, match="damaged safetensors file"):
        open_model_dir(tmp_path / "m")

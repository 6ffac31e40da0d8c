"""Decoding over ranks: every layout says, token for token, what one process says."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from athanor.cli import app
from athanor.data.types import IGNORE
from athanor.errors import AthanorError
from athanor.inference.engine import Generation, generate, stream
from athanor.inference.sampling import GREEDY, Sampling
from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import Decoder
from athanor.model.hf import save_model_dir
from athanor.model.init import init_weights
from athanor.parallel.inference import PipelinedDecoder, lay_out_for_decoding
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan
from athanor.tokenizer.train import train_tokenizer
from tests.parallel.ranks import run_ranks

MOE = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, num_shared_experts=1, first_k_dense=1)
KINDS: dict[str, dict[str, Any]] = {
    "gqa": {"num_key_value_heads": 2, "norm_placement": "depth_scaled_sandwich", "qk_norm": True},
    "one_kv_head": {"num_key_value_heads": 1, "sliding_window": 5},
    "tied": {
        "tie_word_embeddings": True,
        "position_embedding": "learned",
        "norm_type": "layernorm",
        "attention_bias": True,
        "mlp_gated": False,
        "mlp_bias": True,
    },
    "moe": {"moe": MOE, "num_key_value_heads": 2},
    "moe_bias": {"moe": MOE.model_copy(update={"balance": "bias", "first_k_dense": 0})},
}
#: ragged, with equal ones and one of a single token
PROMPTS = [[5, 9, 11], [7], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [5, 9, 11], [60, 1, 2, 3, 4, 5], [5, 9, 11]]
STOPS = [17, 23, 40, 41]
SAMPLED = Sampling(1.1, top_k=40, top_p=0.95, seed=7)
LAYOUTS: list[dict[str, Any]] = [
    {"tp": 2},
    {"pp": 2},
    {"pp": 2, "vpp": 2, "schedule": "interleaved_1f1b"},
    {"pp": 2, "vpp": 2, "schedule": "zbv"},
    {"pp": 3, "layers_per_stage": (0, 4, 0)},
    {"pp": 2, "tp": 2},
    {"pp": 2, "dp_shard": 2},
    {"dp_replicate": 2, "cp": 2},
]


def make(kind: str, dtype: torch.dtype = torch.float64) -> Decoder:
    """A model whose every parameter, norms and biases too, is random, the same wherever it is made."""
    fields: dict[str, Any] = {
        "vocab_size": 67,
        "hidden_size": 32,
        "intermediate_size": 44,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 40,
        "initializer_range": 0.3,
        "init": "normal",
    }
    model = Decoder(ModelConfig(**{**fields, **KINDS[kind]})).double()
    init_weights(model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, param in sorted(model.named_parameters()):
            param += 0.1 * torch.randn(param.shape, generator=generator, dtype=torch.float64)
    return model.to(dtype).eval()


def said(model: Decoder) -> dict[str, Any]:
    """Everything that is compared, of a model that is whole or laid out."""
    return {
        "greedy": generate(model, PROMPTS, GREEDY, STOPS, 14),
        "sampled in small batches": generate(model, PROMPTS, SAMPLED, STOPS, 14, batch_size=4),
        "stream": list(stream(model, PROMPTS[2], SAMPLED, STOPS, 4)),
        "to the end of the context": generate(model, [[1] * 37, [1, 2] * 18], GREEDY, [], 60),
    }


@cache
def alone(kind: str, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    return said(make(kind, dtype))


def on_ranks(keys: dict[str, Any], kinds: list[str], dtype: torch.dtype) -> list[dict[str, Any]]:
    plan = ParallelPlan(**keys)
    ranks = Ranks.of(plan, torch.device("cpu"))
    return [said(lay_out_for_decoding(make(kind, dtype), ranks, plan)) for kind in kinds]


def assert_same(got: Any, want: Any, note: str) -> None:
    if not isinstance(want[0], Generation):
        assert got == want, note
        return
    assert [(g.ids, g.finished) for g in got] == [(g.ids, g.finished) for g in want], note
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-5, rtol=1e-5, msg=note)


@pytest.mark.parametrize("keys", LAYOUTS, ids=lambda keys: "x".join(f"{k}{v}" for k, v in keys.items()))
def test_the_same_tokens_on_every_rank(keys: dict[str, Any]) -> None:
    kinds = list(KINDS) if "tp" not in keys else ["gqa", "moe"]  # test_tensor has the others
    lengths = {len(g.ids) for kind in kinds for g in alone(kind)["sampled in small batches"]}
    assert len(lengths) > 3, "rows should end at different steps for this test to mean anything"
    for rank, found in enumerate(run_ranks(ParallelPlan(**keys).world_size, on_ranks, keys, kinds, torch.float64)):
        for kind, got in zip(kinds, found, strict=True):
            for what, value in alone(kind).items():
                assert_same(got[what], value, f"rank {rank}, {kind}, {what}")


def test_float32_too() -> None:
    (found,) = run_ranks(4, on_ranks, {"tp": 2, "pp": 2}, ["gqa"], torch.float32)[0]
    for what, value in alone("gqa", torch.float32).items():
        assert_same(found[what], value, what)


def scores(model: Decoder) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids_BT, labels_BT = torch.randint(0, 67, (2, 3, 12), generator=generator).unbind()
    labels_BT[:, ::5] = IGNORE
    positions_BT = torch.arange(12).expand(3, -1) % 6
    with torch.no_grad():
        asked = (ids_BT, labels_BT, positions_BT, [[6, 6]] * 3)
        loss, aux = model.loss(*asked)
        return [loss, torch.zeros(()) if aux is None else aux, *model.token_logprobs(*asked, 0.7)]


def scores_on_ranks(keys: dict[str, Any]) -> list[torch.Tensor]:
    plan = ParallelPlan(**keys)
    model = lay_out_for_decoding(make("moe"), Ranks.of(plan, torch.device("cpu")), plan)
    found = scores(model)
    if isinstance(model, PipelinedDecoder):
        with pytest.raises(AthanorError, match="gives no hidden states"):
            model.hidden(torch.zeros(1, 1, dtype=torch.int64))
    return found


def test_scores_of_a_laid_out_model() -> None:
    """What evaluation and a reference model need of it."""
    for keys in ({"pp": 2}, {"pp": 2, "tp": 2}):
        for found in run_ranks(ParallelPlan(**keys).world_size, scores_on_ranks, keys):
            for ours, theirs in zip(found, scores(make("moe")), strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9, check_dtype=False)


def broken(keys: dict[str, Any]) -> list[list[int]]:
    """A cache whose rows of one stage are never dropped: what a forgotten part would do."""
    plan = ParallelPlan(**keys)
    ranks = Ranks.of(plan, torch.device("cpu"))
    model = lay_out_for_decoding(make("gqa"), ranks, plan)
    if ranks.at("pp") == 1:
        for block in model.stages[0].layers.values():  # type: ignore[operator, union-attr]
            block.attn.layer = 0  # two blocks in one place
    return [g.ids for g in generate(model, PROMPTS, GREEDY, STOPS, 14)]


def test_a_wrong_place_in_the_cache_is_seen() -> None:
    assert run_ranks(2, broken, {"pp": 2})[0] != [g.ids for g in alone("gqa")["greedy"]]


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoding") / "model"
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 3, 270)
    model = Decoder(make("gqa").config.model_copy(update={"vocab_size": 270, "max_position_embeddings": 96}))
    init_weights(model, 5)
    save_model_dir(model, folder)
    tokenizer.save(folder)
    return folder


def command(words: list[str]) -> tuple[int, str]:
    """A command in this process, which may be one of several ranks: its exit status, and what it prints."""
    result = CliRunner().invoke(app, words, env={"NO_COLOR": "1", "COLUMNS": "120"})
    return result.exit_code, result.output


@pytest.mark.parametrize("asked", [["-p", "12 + "], ["-p", "12 + ", "-p", "3", "-p", "1 + 1 = "]], ids=("one", "three"))
def test_generate_prints_the_same_once(model_dir: Path, asked: list[str]) -> None:
    words = ["generate", str(model_dir), *asked, "-t", "1", "-n", "9", "--seed", "3", "--device", "cpu"]
    want = command(words)
    assert want[0] == 0 and len(want[1]) > 5
    for layout in (["parallel.tp=2", "parallel.pp=2"], ["parallel=auto"]):
        first, *others = run_ranks(4, command, [*words, *layout])
        assert first == want
        assert others == [(0, "")] * 3


def test_evaluation_gives_the_same_figures(model_dir: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"{i} + 3 = {i + 3} " * 5}) + "\n" for i in range(60)))
    recipe.write_text(
        f"data: {{sources: {{own: {{paths: [{text}], holdout: 0.3}}}}}}\n"
        "train: {seq_len: 64, eval_tokens: 512}\neval: {tasks: [arithmetic, loss], questions: 6, max_new_tokens: 6}\n"
    )
    words = ["eval", str(recipe), "--model", str(model_dir), "--out"]
    assert command([*words, str(tmp_path / "one"), "parallel.pp=2"])[0] == 0  # alone it needs no layout
    layouts = {"pipeline": ["parallel.pp=2"], "tensor": ["parallel.tp=2"], "data": []}
    for name, layout in layouts.items():
        found = run_ranks(2, command, [*words, str(tmp_path / name), *layout])
        assert found[0][0] == 0, found[0][1]
        assert found[1] == (0, "")
    want = json.loads((tmp_path / "one" / "eval.json").read_text())["tasks"]
    for name in layouts:
        got = json.loads((tmp_path / name / "eval.json").read_text())["tasks"]
        assert got["arithmetic"]["samples"] == want["arithmetic"]["samples"]
        assert got["loss"]["metrics"] == pytest.approx(want["loss"]["metrics"], rel=1e-5)


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        (["parallel.tp=3"], "num_key_value_heads 2"),
        (["parallel.pp=3", "parallel.vpp=2"], "schedule 1f1b needs vpp 1"),
        (["parallel.pp=2"], "the plan needs 2 ranks"),
        (["parallel.ep=3"], "the model has no experts"),
        (["train.steps=3"], "unknown key 'train'"),
    ],
)
def test_layouts_that_do_not_fit(model_dir: Path, layout: list[str], says: str) -> None:
    for status, text in run_ranks(3, command, ["generate", str(model_dir), *layout, "-p", "1"]):
        assert status == 2
        assert says in text and "→" in text


def test_a_layout_without_ranks(model_dir: Path) -> None:
    status, text = command(["generate", str(model_dir), "parallel.tp=2", "-p", "1"])
    assert status == 2
    assert "athanor launch --nproc 2" in text

"""The decoder against formulas written out in float64, its cache, its losses and its initialisations."""

import math

import pytest
import torch
import torch.nn.functional as F

from athanor.errors import AthanorError
from athanor.model.cache import KVCache
from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights, matrix_std

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def make(dtype: torch.dtype = torch.float64, **overrides: object) -> Decoder:
    model = Decoder(ModelConfig(**{**SHAPE, "init": "normal", "initializer_range": 0.2, **overrides}))
    init_weights(model, 0)
    return model.to(dtype)


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


@pytest.mark.parametrize("placement", ["pre", "sandwich", "depth_scaled_sandwich"])
def test_forward_equals_the_written_equations(placement: str) -> None:
    """h ← h + Norm(γ, ATTN(Norm(h))), h ← h + Norm(γ, MLP(Norm(h))) (arXiv 2504.07866, eq. 2), no module reused."""
    model = make(norm_placement=placement)
    p = dict(model.named_parameters())
    ids = torch.randint(0, 61, (1, 9))
    at = torch.arange(9, dtype=torch.float64)
    angle = at[:, None] / 10_000 ** (torch.arange(0, 8, 2, dtype=torch.float64) / 8)

    def rotate(x: torch.Tensor) -> torch.Tensor:  # [T, H, 8] as complex numbers of halves
        z = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angle), angle)[:, None]
        return torch.cat((z.real, z.imag), -1)

    h = p["embed_tokens.weight"][ids[0]]
    for i in range(3):
        w = {k.removeprefix(f"layers.{i}."): v for k, v in p.items() if k.startswith(f"layers.{i}.")}
        x = rms(h, w["input_norm.weight"])
        q, k, v = (F.linear(x, w[f"attn.{n}_proj.weight"]).view(9, -1, 8) for n in "qkv")
        q, k, v = rotate(q), rotate(k).repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(8)
        scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf).softmax(-1)
        out = F.linear(torch.einsum("hqk,khd->qhd", scores, v).reshape(9, 32), w["attn.o_proj.weight"])
        h = h + (rms(out, w["post_attn_norm.weight"]) if placement != "pre" else out)
        x = rms(h, w["mlp_norm.weight"])
        gate, up = F.linear(x, w["mlp.gate_proj.weight"]), F.linear(x, w["mlp.up_proj.weight"])
        out = F.linear(gate * gate.sigmoid() * up, w["mlp.down_proj.weight"])
        h = h + (rms(out, w["post_mlp_norm.weight"]) if placement != "pre" else out)
    expected = F.linear(rms(h, p["final_norm.weight"]), p["lm_head.weight"])
    # RoPE angles are made in float32 (as everywhere in the field): 1e-6, not float64's 1e-12
    torch.testing.assert_close(model(ids)[0], expected, atol=2e-6, rtol=2e-6)


VARIANTS: list[dict[str, object]] = [
    {},
    {"norm_placement": "depth_scaled_sandwich", "qk_norm": True},
    {"position_embedding": "learned", "norm_type": "layernorm", "mlp_gated": False, "hidden_act": "gelu"},
    {"sliding_window": 4},
    {"tie_word_embeddings": True, "attention_bias": True, "rope_interleaved": True, "partial_rotary_factor": 0.5},
    {"moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "num_shared_experts": 1}},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_documents_equal_documents_alone(variant: dict[str, object]) -> None:
    model = make(**variant)
    ids = torch.randint(0, 61, (2, 20))
    doc_lens = [[7, 1, 12], [20]]
    positions = torch.cat([torch.arange(n) for row in doc_lens for n in row]).view(2, 20)
    packed = model(ids, positions, doc_lens)
    alone = torch.cat([model(x[None]) for x in ids[0].split(doc_lens[0])], 1)
    torch.testing.assert_close(packed[:1], alone, atol=1e-10, rtol=0)
    torch.testing.assert_close(packed[1:], model(ids[1:]), atol=1e-10, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_incremental_decoding_equals_recomputation(variant: dict[str, object]) -> None:
    """Ragged prompts, right-padded: a prefill, single tokens, then several at once."""
    model = make(**variant)
    ids = torch.randint(0, 61, (2, 18))
    true_lens = torch.tensor([5, 9])
    cache = KVCache(model.config, 2, 18, torch.float64)
    logits = model(ids[:, :9], cache=cache)
    cache.advance(true_lens)
    rows = [ids[0, :5].tolist(), ids[1, :9].tolist()]
    for row in range(2):
        expected = model(ids[row : row + 1, : int(true_lens[row])])
        torch.testing.assert_close(logits[row, : int(true_lens[row])], expected[0], atol=1e-10, rtol=0)
    for n_new in (1, 1, 3):
        new = torch.randint(0, 61, (2, n_new))
        logits = model(new, cache=cache)
        cache.advance(n_new)
        for row in range(2):
            rows[row] += new[row].tolist()
            expected = model(torch.tensor([rows[row]]))[0, -n_new:]
            torch.testing.assert_close(logits[row], expected, atol=1e-10, rtol=0)
    cache.select(torch.tensor([1]))
    new = torch.tensor([[3]])
    expected = model(torch.tensor([rows[1] + [3]]))[0, -1:]
    torch.testing.assert_close(model(new, cache=cache)[0], expected, atol=1e-10, rtol=0)


def test_full_cache_is_refused() -> None:
    model = make()
    cache = KVCache(model.config, 1, 4, torch.float64)
    with pytest.raises(AthanorError, match="5 tokens do not fit"):
        model(torch.zeros(1, 5, dtype=torch.int64), cache=cache)


@pytest.mark.parametrize("tied", [False, True])
def test_losses_equal_torch(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunked cross-entropy and token log-probabilities: values and gradients of the plain formulas."""
    monkeypatch.setattr("athanor.model.head.CHUNK_ELEMENTS", 61 * 64)
    model = make(tie_word_embeddings=tied)
    ids, labels = torch.randint(0, 61, (4, 40)), torch.randint(0, 61, (4, 40))
    labels[:, ::5] = -100
    loss, aux = model.loss(ids, labels)
    assert aux is None
    got = torch.autograd.grad(3 * loss, list(model.parameters()))
    log_p = model(ids).log_softmax(-1)
    picked = log_p.gather(-1, labels.clamp_min(0)[..., None])[..., 0] * (labels != -100)
    expected = torch.autograd.grad(-3 * picked.sum(), list(model.parameters()))
    torch.testing.assert_close(loss, -picked.sum())
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)

    logp_BT, entropy_BT = model.token_logprobs(ids, labels, temperature=0.7)
    log_q = (model(ids) / 0.7).log_softmax(-1)
    picked = log_q.gather(-1, labels.clamp_min(0)[..., None])[..., 0] * (labels != -100)
    torch.testing.assert_close(logp_BT, picked)
    torch.testing.assert_close(entropy_BT, -(log_q.exp() * log_q).sum(-1) * (labels != -100))
    weight = torch.randn_like(picked)
    got = torch.autograd.grad((logp_BT * weight).sum(), list(model.parameters()))
    expected = torch.autograd.grad((picked * weight).sum(), list(model.parameters()))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("init", ["tiny", "small", "scaled-residual", "normal"])
def test_initial_standard_deviations(init: str) -> None:
    wide = {**SHAPE, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 8, "vocab_size": 512}
    model = Decoder(ModelConfig(**wide, init=init, norm_placement="depth_scaled_sandwich"))
    init_weights(model, 1)
    d, depth = 128, 8
    expected = {
        "tiny": (math.sqrt(1 / (2 * d * depth)),) * 2,
        "small": (math.sqrt(2 / (5 * d)),) * 2,
        "scaled-residual": (math.sqrt(2 / (5 * d)), math.sqrt(2 / (5 * d * depth))),
        "normal": (0.02, 0.02),
    }[init]
    assert model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(expected[0], rel=0.03)
    assert model.layers[0].mlp.down_proj.weight.std().item() == pytest.approx(expected[1], rel=0.03)
    embedding = 0.5 if init == "tiny" else expected[0]
    assert model.embed_tokens.weight.std().item() == pytest.approx(embedding, rel=0.03)
    torch.testing.assert_close(model.layers[5].post_attn_norm.weight, torch.full((d,), 0.283 / math.sqrt(depth)))
    torch.testing.assert_close(model.layers[5].post_mlp_norm.weight, torch.full((d,), 0.432 / math.sqrt(depth)))
    assert (model.layers[0].input_norm.weight == 1).all()


def test_init_is_a_function_of_seed_and_name() -> None:
    first, second, other = (Decoder(ModelConfig(**SHAPE)) for _ in range(3))
    init_weights(first, 7)
    init_weights(second, 7)
    init_weights(other, 8)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.embed_tokens.weight, other.embed_tokens.weight)
    assert not torch.equal(first.layers[0].attn.k_proj.weight, first.layers[0].attn.v_proj.weight)


def test_tied_embedding_keeps_a_matrix_scale() -> None:
    """An embedding of std 0.5 would be an output matrix of std 0.5 too, so a tied one takes the matrices' scale."""
    config = ModelConfig(**SHAPE, init="tiny", tie_word_embeddings=True)
    assert matrix_std(config, "embed_tokens.weight") == matrix_std(config, "layers.0.attn.q_proj.weight")


def test_the_head_may_begin_at_a_scale_of_its_own() -> None:
    wide = {**SHAPE, "hidden_size": 128, "vocab_size": 512, "init": "tiny", "head_init_std": 0.06}
    model = Decoder(ModelConfig(**wide))
    init_weights(model, 1)
    assert model.lm_head is not None
    assert model.lm_head.weight.std().item() == pytest.approx(0.06, rel=0.03)
    plain = ModelConfig(**{**wide, "head_init_std": None})
    for name in ("embed_tokens.weight", "layers.0.mlp.down_proj.weight"):
        assert matrix_std(model.config, name) == matrix_std(plain, name)
    tied = ModelConfig(**{**wide, "tie_word_embeddings": True})  # there is no output matrix of its own
    assert matrix_std(tied, "embed_tokens.weight") == matrix_std(tied, "layers.0.attn.q_proj.weight")


def test_learned_positions_have_an_end() -> None:
    model = make(position_embedding="learned", max_position_embeddings=8)
    with pytest.raises(AthanorError, match="beyond the 8 learned positions"):
        model(torch.zeros(1, 9, dtype=torch.int64))


def test_rope_base_changes_attention_and_is_remembered() -> None:
    model = make()
    ids = torch.randint(0, 61, (1, 12))
    before = model(ids)
    model.set_rope_theta(1e6)
    assert model.config.rope_theta == 1e6
    assert not torch.allclose(before, model(ids))

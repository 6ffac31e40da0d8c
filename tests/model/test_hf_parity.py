"""Logits and gradients against transformers, both directions, for every family: float32, max |Δ| < 1e-4."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from athanor.model.config import ModelConfig, MoEConfig, RopeScaling
from athanor.model.decoder import Decoder
from athanor.model.hf import load_model_dir, read_config, save_model_dir
from athanor.model.hf_families import choose_family
from athanor.model.hf_weights import family_links
from athanor.model.init import init_weights

TOLERANCE = 1e-4
VOCAB = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 32}
MOE = {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.01}

#: name → (family prefix of the transformers classes, keys beyond SHAPE)
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu_pytorch_tanh"}),
    "llama-llama3": ("Llama", {"rope_parameters": LLAMA3, "num_key_value_heads": 4}),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e3}}),
    "llama-yarn": ("Llama", {"rope_parameters": YARN}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window-flag-off": ("Qwen2", {"sliding_window": 4, "tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-biases": ("Qwen3", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "mistral-head-dim": ("Mistral", {"sliding_window": None, "head_dim": 8, "num_attention_heads": 6}),
    "glm4": ("Glm4", {"head_dim": 16}),
    "glm4-whole-rotary": (
        "Glm4",
        {"head_dim": 32, "partial_rotary_factor": 1.0, "attention_bias": False, "tie_word_embeddings": True},
    ),
    "qwen3-moe": (
        "Qwen3Moe",
        MOE | {"num_experts": 4, "moe_intermediate_size": 24, "mlp_only_layers": [0], "norm_topk_prob": False},
    ),
    "mixtral": ("Mixtral", MOE | {"num_local_experts": 4, "sliding_window": 8}),
}


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights that make every part matter: unit-scale matrices, gains around 1 but not 1, biases that are not 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, param in model.named_parameters():
            noise = torch.randn(param.shape, generator=generator)
            if "norm" in name:
                param.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                param.copy_(0.3 * noise)
            else:
                param.copy_(noise * param.shape[-1] ** -0.5)


def their_model(name: str, seed: int = 0) -> Any:
    """A fresh transformers model on a config object of its own."""
    prefix, extra = THEIRS[name]
    config = getattr(transformers, f"{prefix}Config")(**copy.deepcopy(SHAPE | extra))
    model = getattr(transformers, f"{prefix}ForCausalLM")(config).float()
    randomise(model, seed)
    return model.eval()


def largest_difference(ours: Decoder, theirs: Any) -> float:
    """max |Δ logits| over batches of several lengths."""
    worst = 0.0
    with torch.no_grad():
        for length in (1, 7, 33):
            ids = torch.randint(VOCAB, (2, length), generator=torch.Generator().manual_seed(length))
            logits = theirs(ids).logits
            assert logits.std() > 0.1  # else closeness would say nothing
            worst = max(worst, float((ours(ids) - logits).abs().max()))
    return worst


def load_theirs(path: Path) -> Any:
    """transformers' model of a directory; every tensor must be used and none made up."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, info = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


def batches() -> list[torch.Tensor]:
    return [torch.randint(VOCAB, (2, 24), generator=torch.Generator().manual_seed(100 + i)) for i in range(3)]


def train_ours(model: Decoder) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for ids in batches():
        labels = torch.cat((ids[:, 1:], torch.full_like(ids[:, :1], -100)), dim=1)
        loss, aux = model.loss(ids, labels)
        (loss / 46 if aux is None else loss / 46 + aux).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def train_theirs(model: Any) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for ids in batches():
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.mark.parametrize("name", THEIRS)
def test_from_transformers_and_back(name, tmp_path):
    theirs = their_model(name)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model_dir(tmp_path / "theirs")
    assert largest_difference(ours, theirs) < TOLERANCE

    family = save_model_dir(ours, tmp_path / "ours", family=theirs.config.model_type)
    assert family == theirs.config.model_type
    again = load_theirs(tmp_path / "ours")
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)  # the same bits, not only the same function
    assert read_config(tmp_path / "ours") == ours.config
    assert largest_difference(ours, again) < TOLERANCE


@pytest.mark.parametrize("name", THEIRS)
def test_gradients_agree(name, tmp_path):
    theirs = their_model(name, seed=5)
    theirs.save_pretrained(tmp_path)
    ours = load_model_dir(tmp_path)
    ids = batches()[0]
    labels = torch.cat((ids[:, 1:], torch.full_like(ids[:, :1], -100)), dim=1)
    (ours.loss(ids, labels)[0] / 46).backward()
    theirs(ids, labels=ids).loss.backward()

    grads = {n: p.grad for n, p in ours.named_parameters()}
    expected = {n: p.grad for n, p in theirs.named_parameters()}
    family = choose_family(ours.config, theirs.config.model_type)
    fused = any("experts.gate_up_proj" in n for n in expected)
    compared = 0
    for link in family_links(ours.config, family, fused):
        for key, mine in zip(link.theirs, link.to_theirs([grads[n] for n in link.ours]), strict=True):
            torch.testing.assert_close(mine, expected[key], rtol=1e-3, atol=1e-5)
            compared += 1
    assert compared == len(expected)


@pytest.mark.parametrize("name", THEIRS)
def test_after_transformers_trained(name, tmp_path):
    theirs = their_model(name, seed=1)
    train_theirs(theirs)
    theirs.save_pretrained(tmp_path)
    assert largest_difference(load_model_dir(tmp_path), theirs) < TOLERANCE


@pytest.mark.parametrize("name", ["llama-biases", "qwen3", "mistral", "glm4", "mixtral"])
def test_packed_documents_equal_documents_alone(name, tmp_path):
    theirs = their_model(name, seed=2)
    theirs.save_pretrained(tmp_path)
    ours = load_model_dir(tmp_path)
    doc_lens = [[5, 12, 1, 22], [40]]
    ids = torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(9))
    positions = torch.stack([torch.cat([torch.arange(n) for n in lens]) for lens in doc_lens])
    with torch.no_grad():
        packed = ours(ids, positions, doc_lens)
        for row, lens in enumerate(doc_lens):
            for document, mine in zip(ids[row].split(lens), packed[row].split(lens), strict=True):
                assert float((theirs(document[None]).logits[0] - mine).abs().max()) < TOLERANCE


def our_config(**changes: Any) -> ModelConfig:
    return ModelConfig(**(SHAPE | {"rope_theta": 500.0} | changes))


EXPERTS = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
#: name → (our config, the family it must be written as)
OURS: dict[str, tuple[ModelConfig, str]] = {
    "plain": (our_config(), "llama"),
    "scaled-rope": (
        our_config(rope_scaling=RopeScaling(rope_type="yarn", factor=2, original_max_position_embeddings=64)),
        "llama",
    ),
    "all-biases": (our_config(attention_bias=True, attention_output_bias=True, mlp_bias=True), "llama"),
    "feed-forward-bias-and-qkv-bias": (our_config(attention_bias=True, mlp_bias=True), "llama"),
    "qkv-bias": (our_config(attention_bias=True, tie_word_embeddings=True), "qwen2"),
    "window": (our_config(sliding_window=6), "mistral"),
    "window-and-bias": (our_config(sliding_window=6, attention_bias=True), "qwen2"),
    "free-head-dim": (our_config(num_attention_heads=6, head_dim=8), "mistral"),
    "qk-norm": (our_config(qk_norm=True, head_dim=32), "qwen3"),
    "qk-norm-qkv-bias-window": (our_config(qk_norm=True, attention_bias=True, sliding_window=5), "qwen3"),
    "qk-norm-interleaved": (our_config(qk_norm=True, rope_interleaved=True), "qwen3"),
    "interleaved": (our_config(rope_interleaved=True, attention_bias=True, attention_output_bias=True), "llama"),
    "sandwich": (our_config(norm_placement="sandwich", init="small"), "glm4"),
    "depth-scaled-tiny": (our_config(norm_placement="depth_scaled_sandwich", init="tiny", norm_eps=1e-6), "glm4"),
    "depth-scaled-partial-bias": (
        our_config(norm_placement="depth_scaled_sandwich", partial_rotary_factor=0.5, attention_bias=True),
        "glm4",
    ),
    "depth-scaled-interleaved": (
        our_config(norm_placement="depth_scaled_sandwich", rope_interleaved=True, tie_word_embeddings=True),
        "glm4",
    ),
    "experts": (our_config(moe=EXPERTS), "mixtral"),
    "experts-qk-norm": (our_config(moe=EXPERTS.model_copy(update={"first_k_dense": 1}), qk_norm=True), "qwen3_moe"),
}


@pytest.mark.parametrize("name", OURS)
def test_ours_to_transformers_before_and_after_training(name, tmp_path):
    config, family = OURS[name]
    ours = Decoder(config)
    init_weights(ours, seed=0)
    assert save_model_dir(ours, tmp_path / "fresh") == family
    with torch.no_grad():
        fresh, ids = load_theirs(tmp_path / "fresh"), batches()[0]
        assert float((ours(ids) - fresh(ids).logits).abs().max()) < TOLERANCE

    randomise(ours, seed=3)
    train_ours(ours)
    save_model_dir(ours, tmp_path / "trained")
    assert largest_difference(ours, load_theirs(tmp_path / "trained")) < TOLERANCE
    back = load_model_dir(tmp_path / "trained")
    assert back.config == config
    assert all(torch.equal(t, back.state_dict()[n]) for n, t in ours.state_dict().items())


@pytest.mark.parametrize("name", ["plain", "depth-scaled-tiny", "experts-qk-norm"])
def test_finetuned_export_comes_back(name, tmp_path):
    """A model that left for transformers, was trained and saved there, is read with its own config."""
    config, _ = OURS[name]
    ours = Decoder(config)
    randomise(ours, seed=4)
    save_model_dir(ours, tmp_path / "out")
    theirs = load_theirs(tmp_path / "out")
    train_theirs(theirs)
    theirs.save_pretrained(tmp_path / "home")
    home = load_model_dir(tmp_path / "home")
    assert home.config == config
    assert largest_difference(home, theirs) < TOLERANCE


def test_bias_that_grew_in_transformers_is_not_lost(tmp_path):
    """Zeros that fill a family's biases must still be zeros when they come back."""
    from athanor.errors import AthanorError

    ours = Decoder(our_config(attention_bias=True, qk_norm=True))
    randomise(ours, seed=0)
    save_model_dir(ours, tmp_path / "out")
    theirs = load_theirs(tmp_path / "out")
    assert not theirs.model.layers[0].self_attn.o_proj.bias.any()
    train_theirs(theirs)
    theirs.save_pretrained(tmp_path / "home")
    with pytest.raises(AthanorError, match="o_proj.bias is not zero"):
        load_model_dir(tmp_path / "home")


@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral"])
def test_three_dimensional_experts_are_read(name, tmp_path):
    """transformers 5 keeps experts as one tensor in memory; files written straight from there are read too."""
    theirs = their_model(name)
    theirs.config.architectures = [type(theirs).__name__]
    theirs.config.save_pretrained(tmp_path)
    state = {key: tensor.contiguous() for key, tensor in theirs.state_dict().items()}
    assert any(tensor.dim() == 3 for tensor in state.values())
    save_file(state, tmp_path / "model.safetensors")
    assert largest_difference(load_model_dir(tmp_path), theirs) < TOLERANCE


@pytest.mark.parametrize("name", ["depth-scaled-tiny", "window", "experts-qk-norm"])
def test_greedy_generation_equals_full_recomputation(name, tmp_path):
    config, _ = OURS[name]
    ours = Decoder(config.model_copy(update={"eos_token_id": None}))
    randomise(ours, seed=6)
    save_model_dir(ours, tmp_path, extra_config={"eos_token_id": VOCAB - 1})
    theirs = load_theirs(tmp_path)
    ids = torch.tensor([[1, 5, 9, 2, 44]])
    out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0)
    mine = ids
    with torch.no_grad():
        while mine.shape[1] < out.shape[1]:
            mine = torch.cat((mine, ours(mine)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(mine, out)
    assert out.shape[1] == 25 or int(out[0, -1]) == VOCAB - 1

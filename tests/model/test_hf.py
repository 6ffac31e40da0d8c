"""Model directories: atomic writing, shards, tokenizer files, and every damaged or mistaken input named."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from athanor.errors import AthanorError
from athanor.model import hf, hf_shards
from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import Decoder
from athanor.model.hf import export_model, import_model, load_model_dir, read_config, save_model_dir
from athanor.model.init import init_weights

IDS = torch.tensor([[1, 2, 3, 4, 5]])


def decoder(seed: int = 0, **changes: Any) -> Decoder:
    base: dict[str, Any] = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "norm_placement": "depth_scaled_sandwich",
        "init": "tiny",
        "eos_token_id": [5, 0],
        "pad_token_id": 1,
    }
    model = Decoder(ModelConfig(**(base | changes)))
    init_weights(model, seed)
    return model


def same_weights(a: Decoder, b: Decoder) -> bool:
    ours, others = a.state_dict(), b.state_dict()
    return ours.keys() == others.keys() and all(torch.equal(t, others[n]) for n, t in ours.items())


def tokenizer_dir(path: Path, n_words: int = 30) -> Path:
    words = {"<|endoftext|>": 0, "<|pad|>": 1} | {f"词{i}": i for i in range(2, n_words)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|pad|>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    fast.save_pretrained(path)
    return path


def edit_config(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def edit_weights(path: Path, drop: tuple[str, ...] = (), **put: torch.Tensor) -> None:
    tensors = load_file(path / "model.safetensors")
    kept = {name: t.clone() for name, t in tensors.items() if name not in drop}
    save_file(kept | put, path / "model.safetensors")


def test_directory_is_complete_and_reads_back(tmp_path):
    model = decoder()
    out = tmp_path / "runs" / "model"
    assert save_model_dir(model, out, tokenizer_dir(tmp_path / "tok"), {"athanor_stage": "sft"}) == "glm4"
    assert sorted(p.name for p in tmp_path.joinpath("runs").iterdir()) == ["model"]

    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["Glm4ForCausalLM"] and config["athanor_stage"] == "sft"
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert config["partial_rotary_factor"] == 1.0 and config["attention_bias"] is False
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": [5, 0], "pad_token_id": 1}

    back = load_model_dir(out)
    assert back.config == model.config and same_weights(model, back)
    assert all(p.requires_grad for p in back.parameters())
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("词7 词9")["input_ids"] == [7, 9] and tokenizer.eos_token_id == 0
    theirs = AutoModelForCausalLM.from_pretrained(out)
    assert theirs.generation_config.eos_token_id == [5, 0] and theirs.dtype == torch.float32


def test_loaded_weights_own_their_memory(tmp_path):
    """No parameter may be a view of the mapped file, nor of a larger tensor."""
    save_model_dir(decoder(attention_bias=True, tie_word_embeddings=True), tmp_path)
    for name, tensor in load_model_dir(tmp_path).state_dict().items():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name
        assert tensor.is_contiguous(), name


def test_shards_and_index(tmp_path):
    model = decoder()
    save_model_dir(model, tmp_path / "one")
    save_model_dir(model, tmp_path / "many", max_shard_bytes=20_000)
    shards = sorted(p.name for p in (tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(load_file(tmp_path / "one" / "model.safetensors"))
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())
    assert max((tmp_path / "many" / s).stat().st_size for s in shards) < 23_000
    assert same_weights(model, load_model_dir(tmp_path / "many"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "many")
    with torch.no_grad():
        assert torch.allclose(theirs(IDS).logits, model(IDS), atol=1e-4)


def test_files_are_mapped_anew_while_reading(tmp_path, monkeypatch):
    """Large files are closed and opened again on the way, so that what was read does not stay in memory."""
    monkeypatch.setattr(hf_shards, "_REMAP_BYTES", 5_000)
    opened = []
    monkeypatch.setattr(hf_shards, "safe_open", lambda *args, **kw: opened.append(args) or safe_open(*args, **kw))
    save_model_dir(decoder(), tmp_path)
    assert same_weights(load_model_dir(tmp_path), decoder())
    assert len(opened) > 5


def test_dtypes(tmp_path):
    model = decoder()
    save_model_dir(model, tmp_path / "bf16", dtype=torch.bfloat16)
    with safe_open(tmp_path / "bf16" / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118
    assert json.loads((tmp_path / "bf16" / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_model_dir(tmp_path / "bf16").lm_head.weight.dtype == torch.float32
    stored = load_model_dir(tmp_path / "bf16", dtype=None)
    assert {p.dtype for p in stored.parameters()} == {torch.bfloat16}
    assert torch.equal(stored.lm_head.weight, model.lm_head.weight.bfloat16())


NATIVE = {
    "older": {
        "norm_type": "layernorm",
        "norm_placement": "pre",
        "position_embedding": "learned",
        "mlp_gated": False,
        "hidden_act": "gelu",
        "mlp_bias": True,
        "attention_bias": True,
        "attention_output_bias": True,
    },
    "sandwich with qk_norm": {"qk_norm": True, "rope_interleaved": True},
    "loss-free routing": {
        "norm_placement": "pre",
        "moe": MoEConfig(
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            num_shared_experts=1,
            scoring="sigmoid",
            balance="bias",
            first_k_dense=1,
        ),
    },
}


@pytest.mark.parametrize("name", NATIVE)
def test_model_of_no_family_is_kept_in_athanors_own_format(name, tmp_path):
    model = decoder(**NATIVE[name])
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("router.bias"):
            buffer.copy_(torch.tensor([0.001, -0.002, 0.003, 0.1234567]))
    assert save_model_dir(model, tmp_path / "m", dtype=torch.bfloat16) == "athanor"
    model.bfloat16()
    back = load_model_dir(tmp_path / "m", dtype=torch.bfloat16)
    assert back.config == model.config
    for key, tensor in back.state_dict().items():
        if key.endswith("router.bias"):  # steps of 0.001 would be lost in bfloat16
            assert tensor.dtype == torch.float32 and float(tensor[3]) == pytest.approx(0.1234567)
        else:
            assert torch.equal(tensor, model.state_dict()[key])
    assert not any(t.is_meta for t in (*back.parameters(), *back.buffers()))
    with torch.no_grad():
        assert back(IDS).isfinite().all()
    with pytest.raises(AthanorError, match="no Hugging Face family"):
        export_model(tmp_path / "m", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_replacing_keeps_other_files_and_drops_old_shards(tmp_path):
    out = tmp_path / "m"
    save_model_dir(decoder(), out, tokenizer_dir(tmp_path / "tok"), max_shard_bytes=20_000)
    (out / "README.md").write_text("notes")
    (out / "sub").mkdir()
    (out / "sub" / "x").write_text("kept")
    save_model_dir(decoder(seed=1), out)
    assert sorted(p.name for p in out.glob("model*")) == ["model.safetensors"]
    assert (out / "README.md").read_text() == "notes" and (out / "sub" / "x").read_text() == "kept"
    assert (out / "tokenizer.json").exists()
    assert same_weights(load_model_dir(out), decoder(seed=1))
    (out / "added_tokens.json").write_text("{}")
    save_model_dir(decoder(), out, tokenizer_dir(tmp_path / "tok2", n_words=40))
    assert not (out / "added_tokens.json").exists()  # no mixture of two tokenizers
    assert len(AutoTokenizer.from_pretrained(out)) == 40


def test_full_disk_leaves_the_old_model(tmp_path):
    out = tmp_path / "m"
    save_model_dir(decoder(), out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(AthanorError, match="not written.*(?s:.*)unchanged"):
            save_model_dir(decoder(seed=1), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert same_weights(load_model_dir(out), decoder())


def test_wrong_targets_and_tokenizers_are_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "home" / "documents").mkdir(parents=True)
    for target, message in ((file, "is a file"), (tmp_path / "home", "no model directory")):
        with pytest.raises(AthanorError, match=message):
            save_model_dir(decoder(), target)
    with pytest.raises(AthanorError, match="no tokenizer files"):
        save_model_dir(decoder(), tmp_path / "m", tmp_path / "home")
    with pytest.raises(AthanorError, match="highest id is 99, the model has 60 embeddings"):
        save_model_dir(decoder(), tmp_path / "m", tokenizer_dir(tmp_path / "tok", n_words=100))
    assert not (tmp_path / "m").exists()


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


FAULTS: dict[str, tuple[Any, str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "broken config": (lambda d: (d / "config.json").write_text("{"), "config.json: not readable as JSON"),
    "broken generation config": (
        lambda d: (d / "generation_config.json").write_text("3"),
        "generation_config.json: not an object",
    ),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), "config.json: not an object"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "no safetensors weights"),
    "pickled weights": (
        lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"),
        r"no safetensors(?s:.*)convert the \.bin",
    ),
    "truncated": (lambda d: truncate(d / "model.safetensors"), "model.safetensors: damaged safetensors"),
    "empty": (lambda d: (d / "model.safetensors").write_bytes(b""), "model.safetensors: damaged safetensors"),
    "architecture": (
        lambda d: edit_config(d, architectures=["PhiForCausalLM"]),
        r"config.json: architecture PhiForCausalLM(?s:.*)Glm4ForCausalLM",
    ),
    "missing tensor": (lambda d: edit_weights(d, ("model.norm.weight",)), "missing: model.norm.weight"),
    "unexpected tensor": (lambda d: edit_weights(d, extra=torch.ones(2)), "unexpected: extra"),
    "shape": (
        lambda d: edit_config(d, vocab_size=61),
        r"shape: model.embed_tokens.weight \[60, 32\] instead of \[61, 32\]",
    ),
    "many missing": (lambda d: edit_config(d, num_hidden_layers=9), "missing: .* and 62 more"),
    "not a float": (
        lambda d: edit_weights(d, **{"model.norm.weight": torch.ones(32, dtype=torch.int32)}),
        "model.norm.weight is stored as I32",
    ),
    "tied but different": (lambda d: edit_config(d, tie_word_embeddings=True), "lm_head.weight differs"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_directories_are_named(fault, tmp_path):
    save_model_dir(decoder(), tmp_path)
    damage, message = FAULTS[fault]
    damage(tmp_path)
    with pytest.raises(AthanorError, match=message) as caught:
        load_model_dir(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d, shard: shard.unlink(), "shard is missing"),
        (lambda d, shard: truncate(shard), "damaged safetensors"),
        (lambda d, shard: save_file({"a": torch.ones(1)}, shard), "shard lacks"),
    ],
)
def test_damaged_shards_are_named(damage, message, tmp_path):
    save_model_dir(decoder(), tmp_path, max_shard_bytes=20_000)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    damage(tmp_path, shard)
    with pytest.raises(AthanorError, match=f"{shard.name}: .*{message}"):
        load_model_dir(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(AthanorError, match="no weight_map"):
        load_model_dir(tmp_path)


def test_no_such_directory(tmp_path):
    for reader in (load_model_dir, read_config):
        with pytest.raises(AthanorError, match="nowhere: no such model directory"):
            reader(tmp_path / "nowhere")


def test_redundant_tensors_are_accepted(tmp_path):
    """Old files store RoPE frequencies, and some store the head of a tied model once more."""
    model = decoder(norm_placement="pre", tie_word_embeddings=True)
    save_model_dir(model, tmp_path)
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    edit_weights(tmp_path, **frequencies, **{"lm_head.weight": model.embed_tokens.weight.detach().clone()})
    assert same_weights(model, load_model_dir(tmp_path))


def test_import_and_export(tmp_path):
    tokenizer = tokenizer_dir(tmp_path / "tok")
    save_model_dir(decoder(norm_placement="pre"), tmp_path / "src", tokenizer, dtype=torch.bfloat16)
    edit_config(tmp_path / "src", athanor=None, eos_token_id=7)  # as a checkpoint from elsewhere
    (tmp_path / "src" / "generation_config.json").write_text('{"eos_token_id": [7, 9], "temperature": 0.6}')

    config = import_model(tmp_path / "src", tmp_path / "ours")
    assert config.eos_token_id == [7, 9] and config.init == "normal"
    assert AutoTokenizer.from_pretrained(tmp_path / "ours").chat_template
    assert json.loads((tmp_path / "ours" / "generation_config.json").read_text())["temperature"] == 0.6
    assert export_model(tmp_path / "ours", tmp_path / "qwen", family="Qwen2ForCausalLM") == "qwen2"
    assert export_model(tmp_path / "qwen", tmp_path / "chosen", dtype=torch.float32) == "llama"
    assert read_config(tmp_path / "chosen") == config
    models_ = [AutoModelForCausalLM.from_pretrained(tmp_path / n) for n in ("ours", "qwen", "chosen")]
    assert [m.dtype for m in models_] == [torch.bfloat16, torch.bfloat16, torch.float32]
    with torch.no_grad():
        first, *others = [m.float()(IDS).logits for m in models_]
    assert all(torch.equal(first, other) for other in others)


def test_import_of_a_directory_without_tokenizer(tmp_path):
    save_model_dir(decoder(), tmp_path / "src")
    import_model(tmp_path / "src", tmp_path / "src")  # in place: read whole, then replaced at once
    assert same_weights(decoder(), load_model_dir(tmp_path / "src"))
    with pytest.raises(AthanorError, match="cannot express"):
        export_model(tmp_path / "src", tmp_path / "out", family="llama")
    with pytest.raises(AthanorError, match="unknown model family 'gpt9'"):
        export_model(tmp_path / "src", tmp_path / "out", family="gpt9")


def test_changed_rope_base_is_saved(tmp_path):
    model = decoder()
    model.set_rope_theta(5e5)
    save_model_dir(model, tmp_path)
    assert read_config(tmp_path).rope_theta == 5e5
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.config.rope_parameters["rope_theta"] == 5e5
    assert torch.allclose(load_model_dir(tmp_path)(IDS), theirs(IDS).logits, atol=1e-5)


def test_compiled_model_is_saved_under_its_own_names(tmp_path):
    model = decoder()
    save_model_dir(torch.compile(model), tmp_path)
    assert same_weights(model, load_model_dir(tmp_path))


def test_public_names():
    assert all(callable(getattr(hf, name)) for name in hf.__all__)

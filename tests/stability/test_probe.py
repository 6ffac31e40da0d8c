"""Probes against independent computations, and the initial post-norm gains of the architectures."""

from __future__ import annotations

import math

import pytest
import torch

from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.stability.corpus import windows
from athanor.stability.probe import UpdateRatio, grouped_norms, output_rms, post_norm_gains
from athanor.stability.settings import LabSettings, parse_arch


def small_model(label: str, layers: int = 3) -> Decoder:
    settings = LabSettings(layers=layers, width=32, heads=2, seq_len=16)
    model = Decoder(settings.model_config_for(parse_arch(label)))
    init_weights(model, 0)
    return model


@pytest.mark.parametrize(("layers", "label"), [(4, "dssn+tiny"), (94, "dssn+small")])
def test_depth_scaled_gains_begin_at_c_over_sqrt_depth(layers: int, label: str) -> None:
    gains = post_norm_gains(small_model(label, layers))
    assert gains["attn_gain_mean"] == pytest.approx([0.283 / math.sqrt(layers)] * layers)
    assert gains["mlp_gain_mean"] == pytest.approx([0.432 / math.sqrt(layers)] * layers)
    assert gains["attn_gain_std"] == pytest.approx([0.0] * layers, abs=1e-9)


def test_plain_sandwich_begins_at_one_and_pre_norm_has_none() -> None:
    assert post_norm_gains(small_model("sandwich+small"))["mlp_gain_mean"] == [1.0] * 3
    assert post_norm_gains(small_model("pre+small")) == {}


def test_output_rms_equals_a_walk_through_the_blocks() -> None:
    model = small_model("sandwich+small")
    batch = windows(torch.arange(256, dtype=torch.uint8).numpy(), torch.tensor([0, 50]).numpy(), 16)
    found = output_rms(model, batch)
    inputs = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].double()))
    model.final_norm.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].double()))
    with torch.no_grad():
        model(batch.input_ids_BT)
    sizes = [math.sqrt((h**2).sum().item() / h.numel()) for h in inputs]
    assert found["embedding"] == pytest.approx(sizes[:1])
    assert found["residual"] == pytest.approx(sizes[1:])
    # gains of 1: what a post-norm adds has RMS 1, so the stream's growth is bounded by the triangle inequality
    assert all(after <= before + 2.001 for before, after in zip(sizes[:-1], sizes[1:], strict=True))
    assert len(found["attn"]) == len(found["mlp"]) == 3
    assert all(not module._forward_hooks for module in model.modules())


def test_grouped_norms_add_up_to_the_global_norm() -> None:
    model = small_model("dssn+small")
    tensors = dict(model.named_parameters())
    groups = grouped_norms(tensors)
    total = math.sqrt(sum(float(p.detach().double().square().sum()) for p in tensors.values()))
    assert math.sqrt(sum(value**2 for value in groups.values())) == pytest.approx(total, rel=1e-6)
    assert set(groups) == {0, 1, 2, "embed_tokens", "final_norm", "lm_head"}


def test_update_ratio_of_a_known_change() -> None:
    model = small_model("pre+small")
    ratio = UpdateRatio(model)
    ratio.before()
    with torch.no_grad():
        for name, param in model.layers[1].named_parameters():
            param.mul_(1.25 if param.ndim > 1 else 7.0)
            assert name
    assert ratio.after() == pytest.approx([0.0, 0.25, 0.0], rel=1e-6)

"""Architectures by name, the grid's order, keys."""

from __future__ import annotations

import pytest

from athanor.errors import AthanorError
from athanor.stability.settings import DEFAULT_ARCHS, Arch, LabSettings, grid, parse_arch


def test_names_go_both_ways() -> None:
    assert parse_arch("dssn+tiny") == Arch("depth_scaled_sandwich", "tiny")
    assert parse_arch("depth_scaled_sandwich+scaled-residual").label == "dssn+scaled-residual"
    assert [parse_arch(label).label for label in DEFAULT_ARCHS] == list(DEFAULT_ARCHS)
    assert parse_arch("pre+normal").label == "pre+normal"


@pytest.mark.parametrize("text", ["dssn", "pre+", "post+small", "pre+huge", ""])
def test_unknown_architectures_are_refused(text: str) -> None:
    with pytest.raises(AthanorError, match="not an architecture"):
        parse_arch(text)


def test_grid_does_one_seed_of_everything_first() -> None:
    cells = grid(list(DEFAULT_ARCHS), [1e-3, 3e-3, 1e-2], 3)
    assert len(cells) == len(set(cells)) == 36
    assert {cell.seed for cell in cells[:12]} == {0} and len({cell.name for cell in cells}) == 36
    assert len(grid(["dssn+tiny", "depth_scaled_sandwich+tiny"], [1e-3, 1e-3], 1)) == 1
    for archs, lrs, seeds in (
        ([], [1e-3], 1),
        (["pre+tiny"], [], 1),
        (["pre+tiny"], [1e-3], 0),
        (["pre+tiny"], [0.0], 1),
    ):
        with pytest.raises(AthanorError):
            grid(archs, lrs, seeds)


def test_the_key_sees_every_setting_and_the_text() -> None:
    base = LabSettings()
    keys = {
        base.key("a"),
        base.key("b"),
        LabSettings(steps=100).key("a"),
        LabSettings(model={"qk_norm": True}).key("a"),
        LabSettings(optimizer={"post_norm_lr": "depth_scaled"}).key("a"),
    }
    assert len(keys) == 5 and base.key("a") == LabSettings().key("a")
    assert "optimizer" not in base.identity()  # laboratories finished before that key existed stay valid


def test_model_keys_reach_the_config_and_bad_ones_are_named() -> None:
    config = LabSettings(model={"qk_norm": True}).model_config_for(parse_arch("dssn+tiny"))
    assert config.qk_norm and config.num_hidden_layers == 94 and config.norm_placement == "depth_scaled_sandwich"
    with pytest.raises(AthanorError, match="qk_nrom"):
        LabSettings(model={"qk_nrom": True}).model_config_for(parse_arch("dssn+tiny"))
    with pytest.raises(AthanorError, match="not a multiple"):
        LabSettings(width=50).model_config_for(parse_arch("pre+small"))


def test_optimizer_keys_reach_the_recipe_and_bad_ones_are_named() -> None:
    recipe = LabSettings(weight_decay=0.2, optimizer={"post_norm_lr": "depth_scaled"}).train_recipe(3e-3)
    assert recipe.optimizer.post_norm_lr == "depth_scaled" and recipe.optimizer.weight_decay == 0.2
    with pytest.raises(AthanorError, match="post_norm_rl"):
        LabSettings(optimizer={"post_norm_rl": "depth_scaled"}).train_recipe(3e-3)

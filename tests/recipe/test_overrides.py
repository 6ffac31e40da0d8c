"""Inheritance, presets, dotted overrides."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.errors import AthanorError
from athanor.recipe import PRESETS, dump, load, load_text
from athanor.recipe.overrides import nearest

STAGES = """
model: {preset: tiny}
data: {sources: {a: {paths: [x]}, b: {paths: [y]}}}
train:
  stages:
    - {name: one, steps: 10, mixture: {a: 1}, schedule: {lr: 1e-3}}
    - {name: two, tokens: 1000}
"""


def test_overrides_reach_keys_lists_and_presets():
    recipe = load_text(
        STAGES,
        [
            "seed=7",
            "train.stages.0.schedule.lr=1e-4",
            "train.stages.1={name: last, steps: 3}",
            "data.sources.c.paths=[z.txt]",
            "model.preset=mini",
            "model.hidden_size=64",
            "train.optimizer.weight_decay=0",
            "train.micro_batch_tokens=null",
            "name=数学",
        ],
    )
    assert recipe.seed == 7
    assert recipe.train.stages[0].schedule.lr == 1e-4
    assert recipe.train.stages[1].name == "last"
    assert recipe.train.stages[1].tokens is None
    assert recipe.data.sources["c"].paths == ["z.txt"]
    assert recipe.model.num_hidden_layers == PRESETS["mini"].num_hidden_layers
    assert recipe.model.hidden_size == 64
    assert recipe.train.optimizer.weight_decay == 0
    assert recipe.name == "数学"


def test_the_last_override_wins():
    assert load_text("name: x", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.steps", "written key=value"),
        ("=3", "written key=value"),
        ("train..steps=3", "written key=value"),
        ("train.steps=[1", "not valid YAML"),
        ("train.steps=many", "train.steps is a text: 'many'\n  → it should be an integer"),
        ("train.steps=0", "train.steps is an integer: 0\n  → it should be > 0"),
        ("train.step=3", "unknown key 'step' in train\n  → did you mean 'steps'?"),
        ("trian.steps=3", "unknown key 'trian' at the top\n  → did you mean 'train'?"),
        ("train.stages.7.steps=3", "'7' is not one of its indexes: 0 to 1 (one, two)"),
        ("train.stages.one.steps=3", "'one' is not one of its indexes"),
        ("train.stages.0.name.x=3", "train.stages.0.name is a text: 'one'; it has no key 'x'"),
        ("sft.train.stages.0.steps=3", "there is no list at sft.train.stages to index"),
        ("model.preset=tinny", "no model preset 'tinny'\n  → did you mean tiny?"),
        ("model.preset=[]", "no model preset []"),
        ("model.num_attention_heads=3", "num_attention_heads (3) is not a multiple of num_key_value_heads (2)"),
        ("train.stages.0.mixture.c=1", "mixture names source 'c'; data.sources has: a, b"),
        ("train.stages.0.tokens=9", "both tokens and steps"),
        ("train.stages.1.seq_len=4096", "longer than model.max_position_embeddings 2048"),
    ],
)
def test_bad_overrides(override, says):
    with pytest.raises(AthanorError) as caught:
        load_text(STAGES, [override])
    assert says in str(caught.value)


def test_a_bad_override_is_located_on_the_command_line():
    with pytest.raises(AthanorError) as caught:
        load_text(STAGES, ["train.stages.0.schedule.lrr=1"])
    assert caught.value.where == "command line (train.stages.0.schedule.lrr=1)"


def test_base_is_merged_key_by_key_and_lists_are_replaced(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "root.yaml").write_text("name: root\nseed: 3\ntrain: {steps: 5, stages: [{name: a, steps: 1}]}\n")
    (tmp_path / "sub" / "mid.yaml").write_text("base: ../root.yaml\nname: mid\nmodel: {preset: tiny}\n")
    top = tmp_path / "sub" / "top.yaml"
    top.write_text("base: mid.yaml\nmodel: {vocab_size: 99}\ntrain: {stages: [{name: b, steps: 2}]}\n")
    recipe = load(top)
    assert (recipe.name, recipe.seed, recipe.train.steps) == ("mid", 3, 5)
    assert [stage.name for stage in recipe.train.stages] == ["b"]
    assert recipe.model == PRESETS["tiny"].model_copy(update={"vocab_size": 99})


def test_an_error_in_a_base_names_the_base_file(tmp_path):
    (tmp_path / "root.yaml").write_text("name: root\ntrain:\n  stepz: 5\n")
    (tmp_path / "top.yaml").write_text("base: root.yaml\ntrain: {seq_len: 64}\n")
    with pytest.raises(AthanorError) as caught:
        load(tmp_path / "top.yaml")
    assert caught.value.where == f"{tmp_path / 'root.yaml'}:3"


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("nowhere.yaml", "base 'nowhere.yaml': no such recipe file"),
        ("[a, b]", "`base` is a list"),
        ("top.yaml", "circle"),
    ],
)
def test_bad_base(tmp_path, base, says):
    (tmp_path / "top.yaml").write_text(f"name: x\nbase: {base}\n")
    with pytest.raises(AthanorError) as caught:
        load(tmp_path / "top.yaml")
    assert says in str(caught.value)
    assert caught.value.where.startswith(str(tmp_path / "top.yaml"))


def test_preset_keys_can_be_removed_and_nested_keys_changed():
    recipe = load_text("model: {preset: llama3-405b, rope_scaling: {factor: 4}}")
    assert recipe.model.rope_scaling.factor == 4
    assert recipe.model.rope_scaling.rope_type == "llama3"
    assert load_text("model: {preset: llama3-405b, rope_scaling: null}").model.rope_scaling is None


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("stpes", "steps"), ("batch_tokens", "global_batch_tokens"), ("sequence_len", "seq_len"), ("zzz", None)],
)
def test_nearest_key(typo, meant):
    assert nearest(typo, ["steps", "seq_len", "global_batch_tokens", "tokens", "precision"]) == meant


def _leaves(value, path=()):
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    else:
        yield path, value


FULL = yaml.safe_load(dump(load_text(STAGES)))


@settings(max_examples=60)
@given(st.sampled_from([leaf for leaf in _leaves(FULL) if leaf[0][0] != "name"]))
def test_every_key_of_a_resolved_recipe_can_be_set_to_what_it_is(leaf):
    """Dotted paths and YAML values reach every key: setting it to its own value changes nothing."""
    path, value = leaf
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    assert load_text(STAGES, [f"{'.'.join(path)}={text}"]) == load_text(STAGES)

"""Typed loading: strict errors that name file, line and key; dump; JSON schema; the recipes of the repository."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig, MoEConfig
from athanor.parallel.plan import ParallelPlan
from athanor.recipe import PRESETS, Recipe, dump, json_schema, load, load_text
from athanor.recipe.schema import ScheduleRecipe, SourceRecipe, StageRecipe, TrainRecipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("  stpes: 3", "unknown key 'stpes' in train\n  → did you mean 'steps'?"),
        ("  lr: 3", "did you mean 'train.schedule.lr'?"),
        ("  qqq: 3", "unknown key 'qqq' in train\n  → keys in train: seq_len, global_batch_tokens"),
        ("  steps: '3'", "train.steps is a text: '3'\n  → it should be an integer"),
        ("  steps: true", "train.steps is true/false: true\n  → it should be an integer"),
        ("  steps: 2.5", "train.steps is a number: 2.5\n  → it should be an integer"),
        ("  compile: 1", "train.compile is an integer: 1\n  → it should be true or false"),
        ("  steps: [1, 2]", "train.steps is a list: [1, 2]\n  → it should be an integer"),
        ("  optimizer: adam", "train.optimizer is a text: 'adam'\n  → it should be a mapping"),
        ("  stages: {a: 1}", "train.stages is a mapping: {'a': 1}\n  → it should be a list"),
        ("  precision: fp23", "it should be one of 'auto', 'fp32' or 'bf16'; did you mean 'fp32'?"),
        ("  clip_norm: -1", "train.clip_norm is an integer: -1\n  → it should be > 0"),
        ("  optimizer: {betas: [0.9]}", "train.optimizer.betas has too few items"),
        ("  schedule:", "train.schedule is nothing (null)\n  → it should be a mapping"),
    ],
)
def test_one_wrong_line(tmp_path, line, says):
    file = tmp_path / "r.yaml"
    file.write_text(f"name: x\ntrain:\n  seq_len: 64\n{line}\n")
    with pytest.raises(AthanorError) as caught:
        load(file)
    assert caught.value.where == f"{file}:4"
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("  tpp: 3", "unknown key 'tpp' in parallel\n  → did you mean 'tp'?"),
        ("  recompute: {mod: full}", "unknown key 'mod' in parallel.recompute\n  → did you mean 'mode'?"),
        ("  qqq: 3", "unknown key 'qqq' in parallel\n  → keys in parallel: dp_replicate, dp_shard"),
        ("  tp: two", "parallel.tp is a text: 'two'\n  → it should be an integer"),
        ("  pp: 0", "parallel.pp is an integer: 0\n  → it should be > 0"),
        ("  schedule: zbvv", "'gpipe', '1f1b', 'interleaved_1f1b', 'zbv' or 'dualpipev'; did you mean 'zbv'?"),
        ("  layers_per_stage: [1, x]", "parallel.layers_per_stage.1 is a text: 'x'\n  → it should be an integer"),
        ("  ParallelPlan: {tp: 2}", "unknown key 'ParallelPlan' in parallel"),
    ],
)
def test_one_wrong_line_in_a_section_that_may_be_a_word(tmp_path, line, says):
    """`parallel` is a mapping or `auto`: a wrong key in the mapping is told alone, without a word about `auto`."""
    file = tmp_path / "r.yaml"
    file.write_text(f"name: x\nparallel:\n  dp_shard: 2\n{line}\n")
    with pytest.raises(AthanorError) as caught:
        load(file)
    assert caught.value.where == f"{file}:4"
    assert says in str(caught.value)
    assert "auto" not in str(caught.value)


def test_parallel_is_a_plan_or_auto():
    assert load_text("name: x").parallel == ParallelPlan()
    assert load_text("parallel: auto").parallel == "auto"
    assert load_text("parallel: auto", ["parallel={tp: 2}"]).parallel == ParallelPlan(tp=2)
    recipe = load_text("parallel: {tp: 2, layers_per_stage: [1, 2], recompute: {mode: selective, names: [ffn]}}")
    assert load_text(dump(recipe)) == recipe
    for wrong, kind in (("auot", "a text: 'auot'"), ("4", "an integer: 4"), ("", "nothing")):
        with pytest.raises(
            AthanorError, match=f"recipe:2: parallel is {kind}.*\n  → it should be a mapping.* or .*'auto'"
        ):
            load_text(f"name: x\nparallel: {wrong}")


def test_all_problems_at_once_in_the_order_of_the_lines(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("name: 3\nmodel: {preset: tinny}\ntrain:\n  stages:\n    - {name: a, stpes: 1}\nseeds: 1\n")
    with pytest.raises(AthanorError) as caught:
        load(file, ["train.seq_len=long"])
    text = str(caught.value)
    assert text.startswith("5 problems")
    where = [text.index(f"{file}:{line}: ") for line in (1, 2, 5, 6)]
    assert where == sorted(where)
    assert "command line (train.seq_len=long): " in text


def test_missing_model_keys_suggest_a_preset():
    with pytest.raises(AthanorError, match="model needs 'intermediate_size'\n  → .*preset: NAME"):
        load_text("model: {vocab_size: 8, hidden_size: 8}")


def test_union_fields_say_every_alternative():
    with pytest.raises(AthanorError) as caught:
        load_text("model: {preset: tiny, eos_token_id: end}")
    assert "model.eos_token_id is a text: 'end'\n  → it should be an integer or a list" in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ("num_attention_heads: 3", r"num_attention_heads \(3\) is not a multiple of num_key_value_heads \(2\)"),
        ("hidden_size: 130", r"hidden_size \(130\) is not a multiple of num_attention_heads \(4\)"),
        ("head_dim: 33", r"rotary width 33.0 is odd"),
        (
            "moe: {num_experts: 2, num_experts_per_tok: 3, moe_intermediate_size: 8}",
            r"num_experts_per_tok \(3\) exceeds num_experts \(2\)",
        ),
    ],
)
def test_impossible_shapes(shape, says):
    with pytest.raises(AthanorError, match=says) as caught:
        load_text(f"name: x\nmodel:\n  preset: tiny\n  {shape}\n", name="r")
    assert caught.value.where in ("r:2", "r:4")


def test_integers_may_be_written_as_powers_of_ten():
    recipe = load_text("train: {stages: [{name: a, tokens: 7.4e12}], optimizer: {weight_decay: 1, betas: [0, 1]}}")
    assert recipe.train.stages[0].tokens == 7_400_000_000_000
    assert recipe.train.optimizer.weight_decay == 1.0


# --- dump ------------------------------------------------------------------------------------------------------------

names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
counts = st.integers(1, 10**13)
rates = st.floats(1e-12, 1e6)
schedules = st.builds(
    ScheduleRecipe, kind=st.sampled_from(["cosine", "wsd", "constant", "linear"]), lr=rates, min_lr=rates
)
stages = st.builds(
    StageRecipe, name=names, tokens=counts, seq_len=st.none() | st.integers(1, 64), schedule=st.none() | schedules
)
models = st.builds(
    ModelConfig,
    vocab_size=counts,
    hidden_size=st.just(64),
    intermediate_size=counts,
    num_hidden_layers=counts,
    num_attention_heads=st.sampled_from([2, 4, 8]),
    num_key_value_heads=st.just(2),
    rope_theta=rates,
    eos_token_id=st.none() | st.integers(0, 9) | st.lists(st.integers(0, 9)),
    moe=st.none() | st.just(MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8)),
)
recipes = st.builds(
    Recipe,
    name=names,
    seed=st.integers(0, 2**31),
    model=st.none() | models,
    data=st.builds(dict, sources=st.dictionaries(names, st.builds(SourceRecipe, paths=st.lists(names)), max_size=3)),
    train=st.builds(TrainRecipe, stages=st.lists(stages, max_size=2), clip_norm=rates),
)


@settings(max_examples=60)
@given(recipes)
def test_dump_and_load_are_inverse(recipe):
    assert load_text(dump(recipe)) == recipe


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_dump(name):
    recipe = Recipe(model=PRESETS[name])
    assert load_text(dump(recipe)) == recipe
    assert load_text(f"model: {{preset: {name}}}").model == PRESETS[name]


# --- schema and the repository's recipes -----------------------------------------------------------------------------


def test_schema_describes_base_and_preset():
    schema = json.loads(json.dumps(json_schema()))
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {"base", *Recipe.model_fields}
    model = schema["$defs"]["ModelConfig"]
    assert model["properties"]["preset"]["enum"] == list(PRESETS)
    assert {"required": ["preset"]} in model["anyOf"]


def test_there_are_recipes():
    assert {"pangu-ultra-135b", "telechat2-115b", "tiny"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_of_the_repository_are_valid(path):
    recipe = load(path)
    assert recipe.name == path.stem
    assert load_text(dump(recipe)) == recipe


def test_pangu_ultra_is_the_published_run():
    recipe = load(next(path for path in RECIPES if path.stem == "pangu-ultra-135b"))
    stages = {stage.name: stage for stage in recipe.train.stages}
    phases = ("general", "general-quality", "reasoning", "annealing")
    assert sum(stages[name].tokens for name in phases) == 13_200_000_000_000
    assert [step.global_batch_tokens // 4096 for step in stages["general"].batch_ramp] == [1536, 2048]
    for name, sequences in {
        "general": 1024,
        "reasoning": 1536,
        "long-context-32k": 384,
        "long-context-128k": 96,
    }.items():
        assert stages[name].global_batch_tokens == sequences * stages[name].seq_len
    assert [stage.rope_theta for stage in recipe.train.stages] == [1e4, 1e4, 1e5, 1e5, 1.6e6, 2.56e7]
    for stage in recipe.train.stages:
        assert sum(stage.mixture.values()) == 100


def test_generated_tasks_are_not_judged_for_repetition_unless_a_recipe_says_so() -> None:
    text = """data:
  steps: [{step: repetition}, {step: repetition, skip_sources: []}, {step: repetition, skip_sources: [web]}]
  sources:
    web: {paths: [web]}
    tasks: {kind: synthesis, documents: 5}
    sums: {kind: arithmetic, documents: 5}
    library: {kind: stdlib}
"""
    recipe = load_text(text)
    assert [step.skip_sources for step in recipe.data.steps] == [("sums", "tasks"), (), ("web",)]  # type: ignore[union-attr]
    shown = dump(recipe)
    assert "- sums\n    - tasks" in shown and load_text(shown) == recipe
    without = load_text("data: {sources: {web: {paths: [web]}}, steps: [{step: repetition}]}")
    assert without.data.steps[0].skip_sources == ()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("{step: minhahs}", "unknown step 'minhahs' in data.steps.0\n  → did you mean 'minhash'?"),
        ("{step: qqqqqq}", "unknown step 'qqqqqq' in data.steps.0\n  → one of normalise, language"),
        ("{min_words: 3}", "data.steps.0 does not say its 'step'"),
        ("{step: gopher, min_wrods: 3}", "unknown key 'min_wrods' in data.steps.0\n  → did you mean 'min_words'?"),
        ("{step: minhash, qqqqqq: 3}", "→ keys in data.steps.0: keep, quality, against"),
        ("{step: quality, weight: {kinds: power}}", "in data.steps.0.weight\n  → did you mean 'kind'?"),
    ],
)
def test_mistakes_in_steps_are_told_in_the_words_of_the_step(step: str, says: str) -> None:
    with pytest.raises(AthanorError) as wrong:
        load_text(f"data: {{steps: [{step}]}}")
    assert says in str(wrong.value)

"""Shares that switch at recorded rows, and mixtures that are not given source by source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data.loader import PackedLoader
from athanor.data.mixing import Mixture, SwitchedMixture
from athanor.data.mixtures import PRESETS, preset_domain, read_mixture, resolve, write_mixture
from athanor.data.shards import ShardSet, ShardWriter
from athanor.errors import AthanorError
from athanor.recipe.loading import load, load_text
from athanor.recipe.mixing import MixtureFrom
from athanor.recipe.schema import SourceRecipe, StageRecipe
from athanor.train.stage import _stage_recipes

SHARES = st.lists(st.floats(0.01, 1), min_size=3, max_size=3)


@settings(max_examples=40, deadline=None)
@given(SHARES, st.lists(st.tuples(st.integers(0, 150), SHARES), max_size=4), st.integers(0, 400))
def test_switches_leave_no_row_out_and_keep_the_shares(
    first: list[float], switches: list[tuple[int, list[float]]], at: int
) -> None:
    names = ["a", "b", "c"]
    mixture = SwitchedMixture(Mixture(dict(zip(names, first, strict=True))))
    row, parts = 0, [(0, first)]
    for gap, shares in switches:
        row += gap
        mixture.switch(row, dict(zip(names, shares, strict=True)))
        parts = [*(part for part in parts if part[0] < row or row == 0 < part[0]), (row, shares)]
    source, index = mixture.place(np.arange(1000))
    for number in range(3):
        assert index[source == number].tolist() == list(range(int((source == number).sum())))
    assert mixture.before(at).tolist() == np.bincount(source[:at], minlength=3).tolist()
    # asked for in any order and by any cut, the rows are the same
    order = np.random.default_rng(at).permutation(1000)
    again = mixture.place(order)
    assert (again[0] == source[order]).all() and (again[1] == index[order]).all()
    start, shares = parts[-1]
    counts = np.bincount(source[start:], minlength=3)
    assert np.abs(counts - np.array(shares) / sum(shares) * (1000 - start)).max() <= 4


def test_a_small_share_is_not_put_off_by_switches() -> None:
    mixture = SwitchedMixture(Mixture({"large": 0.99, "small": 0.01}))
    for row in range(40, 8000, 40):
        mixture.switch(row, {"large": 0.99, "small": 0.01})
    assert mixture.before(8000).tolist() == Mixture({"large": 0.99, "small": 0.01}).before(8000).tolist()


def test_switches_come_back_from_what_was_recorded() -> None:
    mixture = SwitchedMixture(Mixture({"a": 1.0, "b": 1.0}))
    record = [
        (row, shares, mixture.switch(row, shares))
        for row, shares in ((7, {"a": 3.0, "b": 1.0}), (90, {"a": 1.0, "b": 9.0}))
    ]
    other = SwitchedMixture(Mixture({"a": 1.0, "b": 1.0}))
    for row, shares, used in record:
        other.switch(row, shares, used)
    rows = np.arange(300)
    assert all((x == y).all() for x, y in zip(mixture.place(rows), other.place(rows), strict=True))
    with pytest.raises(ValueError, match="behind"):
        mixture.switch(50, {"a": 1.0, "b": 1.0})
    mixture.switch(90, {"a": 1.0, "b": 0.001})  # the last one again
    assert mixture.before(1000)[0] > 900


# --- domains, presets, files ---------------------------------------------------------------------------------------


def shards(path: Path, labels: list[tuple[str, str]], n: int = 20) -> ShardSet:
    """Each document has ten times the number of its label, so that a row tells domains."""
    with ShardWriter(path, "f", 400) as writer:
        for i in range(n):
            number = i % len(labels)
            writer.add([10 + number] * (20 + 20 * number), label=labels[number])
    return ShardSet.open(path)


def test_the_preset_is_the_published_one() -> None:
    assert all(sum(shares.values()) == 100 for shares in PRESETS.values())
    recipe = load_text(Path("recipes/pangu-ultra-135b.yaml").read_text(encoding="utf-8"))
    for stage in recipe.train.stages[:4]:
        phase = stage.name.removesuffix("-quality")
        assert stage.mixture == PRESETS[f"pangu-ultra/{phase}"]


@pytest.mark.parametrize(
    ("label", "domain"),
    [
        (("general", "en"), "english"),
        (("web", "zh-Hans"), "chinese"),
        (("general", "fr"), "multilingual"),
        (("code", "en"), "code"),
        (("math", "zh"), "mathematics"),
        (("instruction", "zh"), "instruction"),
        (("Chinese", "und"), "chinese"),
    ],
)
def test_domains_of_the_presets(label: tuple[str, str], domain: str) -> None:
    assert preset_domain(label) == domain


def test_shares_go_by_domain_across_sources(tmp_path: Path) -> None:
    sources = {
        "web": shards(tmp_path / "web", [("general", "en"), ("math", "en"), ("general", "zh")]),
        "git": shards(tmp_path / "git", [("code", "en")]),
        "old": shards(tmp_path / "old", [("", "")]),
    }
    recipes = {"old": SourceRecipe(domain="code")}
    found = resolve(MixtureFrom(preset="pangu-ultra/reasoning"), sources, recipes)
    assert set(found.shares) == {"web/english", "web/mathematics", "web/chinese", "git", "old"}
    code = {name: found.shares[name] for name in ("git", "old")}
    assert sum(code.values()) == pytest.approx(37)
    assert code["git"] / code["old"] == pytest.approx(sources["git"].n_tokens / sources["old"].n_tokens)
    (note,) = found.notes
    assert (
        "multilingual (4 %), instruction (11 %)" in note
        or "instruction (11 %)" in note
        and "multilingual (4 %)" in note
    )
    loader = PackedLoader(found.sources, found.shares, 64, seed=0)
    seen = loader.seen(4000).tokens
    total = sum(seen.values())
    shares = {name: share / sum(found.shares.values()) for name, share in found.shares.items()}
    assert {name: count / total for name, count in seen.items()} == pytest.approx(shares, abs=0.01)
    # the parts of a source hold its documents, each in one of them
    parts = [found.sources[name].numbers for name in ("web/english", "web/mathematics", "web/chinese")]
    assert sorted(np.concatenate(parts).tolist()) == list(range(20))

    by_domain = resolve(MixtureFrom(domains={"general": 3, "code": 1}), sources, recipes)
    assert by_domain.shares["web/general"] == pytest.approx(3) and by_domain.shares["web/math"] == 0
    assert any("math" in note and "not read" in note for note in by_domain.notes)
    with pytest.raises(AthanorError, match="no domain of the mixture"):
        resolve(MixtureFrom(domains={"poems": 1}), sources, recipes)
    with pytest.raises(AthanorError, match="no mixture is called"):
        resolve(MixtureFrom(preset="nothing"), sources, recipes)


def test_an_exported_mixture_is_read_again(tmp_path: Path) -> None:
    sources = {
        "web": shards(tmp_path / "web", [("general", "en"), ("math", "en")]),
        "git": shards(tmp_path / "git", [("code", "en")]),
    }
    file = tmp_path / "mixture.yaml"
    write_mixture(file, {"web/mathematics": 3.0, "git": 1.0, "gone": 4.0}, updates=7)
    assert yaml.safe_load(file.read_text())["updates"] == 7
    assert read_mixture(file) == {"web/mathematics": 0.375, "git": 0.125, "gone": 0.5}
    found = resolve(MixtureFrom(file=str(file)), sources, {})
    assert found.shares == {"web/mathematics": 0.375, "git": 0.125} and "gone (50 %)" in found.notes[0]
    assert found.sources["web/mathematics"].n_docs == 10
    for text, why in (
        ("[1, 2]", "not a mixture"),
        ("mixture: {a: x}", "share of a"),
        ("mixture: {a: -1}", "share of a"),
        ("mixture: [", "YAML"),
    ):
        file.write_text(text)
        with pytest.raises(AthanorError, match=why):
            read_mixture(file)
    with pytest.raises(AthanorError, match="no such file"):
        read_mixture(tmp_path / "none.yaml")
    write_mixture(file, {"gone": 4.0})
    with pytest.raises(AthanorError, match="no source of the mixture"):
        resolve(MixtureFrom(file=str(file)), sources, {})


STAGE = "train: {{stages: [{{name: s, steps: 1, {}}}]}}\ndata: {{sources: {{web: {{paths: [x]}}}}}}"


def test_recipe_keys_of_a_stage() -> None:
    stage = load_text(STAGE.format("mixture: {preset: pangu-ultra/general}, order: easy_to_hard")).train.stages[0]
    assert stage.mixture == MixtureFrom(preset="pangu-ultra/general")
    assert stage.order.kind == "easy_to_hard" and stage.order.blocks == 16
    plain = load_text(STAGE.format("mixture: {web: 2}, weighting: {kind: document, power: 0.5}")).train.stages[0]
    assert plain.mixture == {"web": 2} and plain.weighting.power == 0.5
    for keys, why in (
        ("mixture: {preset: a, file: b}", "exactly one|give one of"),
        ("mixture: {web: x}", "a number"),
        ("mixture: {nowhere: 1}", "mixture names source 'nowhere'"),
        ("order: sideways", "order"),
        ("reweight: {method: excess}", "needs `reference`"),
        ("reweight: {method: bandit}, order: easy_to_hard", "keep one of the two"),
        ("tokens_share: 0.5", "tokens_share"),
        ("weighting: {kind: document, max_copies: 0}", "max_copies"),
    ):
        with pytest.raises(AthanorError, match=why):
            load_text(STAGE.format(keys))


def test_the_three_stages_scale_to_any_number_of_tokens(tmp_path: Path) -> None:
    folder = Path("recipes/mixtures").resolve()
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"base: {folder}/pangu-three-stage.yaml\ntrain: {{tokens: 1.32e6}}\n")
    train = load(mine).train
    stages = _stage_recipes(train)
    assert [stage.tokens for stage in stages] == [pytest.approx(n, abs=2) for n in (740_000, 460_000, 80_000, 40_000)]
    phases = [stage.mixture.preset for stage in stages]
    assert phases == [f"pangu-ultra/{phase}" for phase in ("general", "general", "reasoning", "annealing")]
    with pytest.raises(AthanorError, match="a share of train.tokens"):
        _stage_recipes(train.model_copy(update={"tokens": None}))
    plain = train.model_copy(update={"stages": [StageRecipe(name="x", steps=3)]})
    with pytest.raises(AthanorError, match="tokens is given beside stages"):
        _stage_recipes(plain)

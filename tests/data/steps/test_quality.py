"""Quality: figures, models that learn and repeat, weights, difficulty, and the step's phases."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from athanor.data.steps import difficulty as hard
from athanor.data.steps import quality_train
from athanor.data.steps.base import Docs, run_in_memory
from athanor.data.steps.quality import Quality
from athanor.data.steps.quality_examples import AXES, Example, examples, explanation, phrases
from athanor.data.steps.quality_model import QualityModel, auc, group_of
from athanor.data.steps.quality_text import FIGURES, WINDOW, Language, figures, kinds_of, tokens_of, windows
from athanor.data.steps.quality_train import generated_model, read_labels, train
from athanor.data.steps.weighting import combine, weights
from athanor.errors import AthanorError
from athanor.recipe.steps.quality import DifficultyOptions, QualityOptions, WeightOptions

N = 900


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one trained model."""
    folder = tmp_path_factory.mktemp("models")
    generated_model(folder, N)
    return folder


def _step(cache: Path, **options: object) -> Quality:
    return Quality(QualityOptions.model_validate({"cache_dir": str(cache), "examples": N, **options}))


def _scores(step: Quality, *texts: str, domain: str = "general") -> dict[str, np.ndarray]:
    columns = step.annotate(Docs.of(list(texts), domain=domain))
    return {axis: np.asarray(columns[axis]) for axis in AXES}


def test_auc_is_mann_whitney() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 20, 200).astype(float), rng.random(200) < 0.4
    u = mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert auc(scores, positive) == pytest.approx(u / (positive.sum() * (~positive).sum()))
    assert np.isnan(auc([1.0, 2.0], [True, True]))


def test_windows_are_bounded_and_keep_short_texts() -> None:
    assert windows("short") == "short"
    assert len(windows("x" * 10**6)) <= WINDOW + 2
    text = "a" * 5000 + "M" * 3000 + "z" * 5000
    assert {"a", "M", "z"} <= set(windows(text))


@pytest.mark.parametrize("text", ["", " ", "\n\n\n", "\x00", "。", "a", "的", "\ufffd" * 50, "😀 😀", "1", "\ud800x"])
def test_odd_texts_have_figures(text: str) -> None:
    tokens = tokens_of(text)
    language = Language.learn(["some words of english"], ["some words of english"])
    values = figures(text, tokens, kinds_of(tokens), language)
    assert values.shape == (len(FIGURES),) and np.isfinite(values).all()


def test_disorder_costs_more_than_order() -> None:
    rng = random.Random(4)
    texts = [explanation(rng, "en") for _ in range(300)]
    language = Language.learn(texts[:200], texts[:200])
    higher = 0
    for text in texts[200:]:
        words = text.split()
        rng.shuffle(words)
        whole, broken = (language.costs(kinds_of(tokens_of(t)))[0] for t in (text, " ".join(words)))
        higher += broken > whole
    assert higher >= 95


def test_damage_lowers_the_axis_it_harms(cache: Path) -> None:
    rng = random.Random(11)
    step = _step(cache)
    for language in ("en", "zh"):
        joint = "" if language == "zh" else " "
        paragraphs = [joint.join(explanation(rng, language) for _ in range(6)) for _ in range(20)]
        furniture = [t + "\n" + "\n".join(rng.choices(phrases()[language]["boilerplate"], k=12)) for t in paragraphs]
        chat = [joint.join(rng.choices(phrases()[language]["chatter"], k=12)) for _ in paragraphs]
        again = [t[: len(t) // 4] * 6 for t in paragraphs]
        backwards = [joint.join(reversed(tokens_of(t))) for t in paragraphs]
        whole = _scores(step, *paragraphs)
        for axis, worse in (
            ("cleanliness", furniture),
            ("educational", chat),
            ("density", again),
            ("fluency", backwards),
        ):
            lower = _scores(step, *worse)[axis]
            assert np.mean(lower < whole[axis]) >= 0.9, (language, axis)


def test_code_is_judged_as_code(cache: Path) -> None:
    code = 'def mean(values):\n    """Arithmetic mean of numbers."""\n    return sum(values) / len(values)\n' * 2
    table = "T = [" + ", ".join(str(i) for i in range(900)) + "]\n"
    scores = _scores(_step(cache), code, table, domain="code")
    assert scores["educational"][0] > scores["educational"][1]
    assert (
        group_of(code, "code") == "code" and group_of("中文文本", "general") == "zh" and group_of("text", "x") == "en"
    )


def test_training_repeats_and_is_kept(cache: Path, tmp_path: Path) -> None:
    (folder,) = (cache / "quality").iterdir()
    again = generated_model(tmp_path, N)
    stored = QualityModel.load(folder)
    assert np.array_equal(again.weights, stored.weights)
    facts = json.loads((folder / "quality.json").read_text())
    assert {row["axis"] for row in facts["agreement"]} == set(AXES)
    before = (folder / "quality.safetensors").stat().st_mtime_ns
    generated_model(cache, N)
    assert (folder / "quality.safetensors").stat().st_mtime_ns == before


def test_damaged_model_is_trained_anew_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_train, "own_texts", lambda: ([], []))
    generated_model(tmp_path, 60)
    (folder,) = (tmp_path / "quality").iterdir()
    (folder / "quality.safetensors").write_bytes(b"x")
    with pytest.raises(AthanorError):
        QualityModel.load(folder)
    generated_model(tmp_path, 60)
    assert QualityModel.load(folder).facts["examples"] > 0


def test_a_persons_labels_train_the_axis_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_train, "own_texts", lambda: ([], []))
    rng = random.Random(0)
    rows = []
    for i in range(120):
        good = i % 2 == 0
        text = (
            " ".join(explanation(rng, "en") for _ in range(3))
            if good
            else " ".join(rng.choices(phrases()["en"]["ads"], k=6))
        )
        rows.append({"text": text, "educational": 0.9 if good else 0.1})
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    step = Quality(QualityOptions(labels=str(path), cache_dir=str(tmp_path)))
    scores = _scores(step, rows[0]["text"], rows[1]["text"])
    assert scores["educational"][0] > 0.6 > 0.4 > scores["educational"][1]
    assert scores["fluency"][0] == 0.5  # nobody said anything of it
    own, other = Docs.of([rows[0]["text"]]), {"labels": str(path), "cache_dir": str(tmp_path)}
    measured = run_in_memory([step], own).measures
    assert measured["quality.quality"][0].as_py() == pytest.approx(measured["quality.educational"][0].as_py())
    with pytest.raises(AthanorError, match="has not learnt density"):
        run_in_memory([Quality(QualityOptions(min_axis={"density": 0.6}, **other))], own)  # type: ignore[arg-type]
    with pytest.raises(AthanorError, match="not learnt what quality is to be made of: cleanliness, fluency, density"):
        run_in_memory([Quality(QualityOptions(axes={"fluency": 1.0}, **other))], own)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("not json", "no JSON object"),
        ('{"text": "x", "density": 3}', "density is 3"),
        ('{"text": "x"}', "no label"),
        ('{"text": "x", "density": 0.5, "educatonal": 0.9}', "did you mean 'educational'"),
    ],
)
def test_bad_labels_name_their_line(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text('{"text": "fine", "density": 0.5}\n' + line + "\n")
    with pytest.raises(AthanorError, match="line 2") as error:
        read_labels(path)
    assert what in str(error.value)


def test_scores_do_not_depend_on_the_batch(cache: Path) -> None:
    texts = [e.text for e in examples(24, 3, [], [])]
    together = _scores(_step(cache), *texts)
    alone = [_scores(_step(cache), text) for text in reversed(texts)][::-1]
    for axis in AXES:
        np.testing.assert_array_equal(together[axis], np.concatenate([one[axis] for one in alone]))


def test_weights_by_hand() -> None:
    q = np.array([0.0, 0.25, 0.5, 1.0, np.nan])
    power = weights(q, WeightOptions(kind="power", exponent=2, reference=0.5, floor=0.1, ceiling=3))
    np.testing.assert_allclose(power, [0.1, 0.25, 1.0, 3.0, 1.0])
    linear = weights(q, WeightOptions(kind="linear", slope=2, reference=0.5, floor=0.2))
    np.testing.assert_allclose(linear, [0.2, 0.5, 1.0, 2.0, 1.0])
    steps = weights(q, WeightOptions(kind="steps", steps={0.25: 0.5, 0.9: 2.0}, floor=0.1))
    np.testing.assert_allclose(steps, [0.1, 0.5, 0.5, 2.0, 1.0])


def test_combined_quality_leaves_unknown_axes_out() -> None:
    columns = {"fluency": np.array([0.2, np.nan, np.nan]), "density": np.array([0.8, 0.6, np.nan])}
    combined = combine(columns, {"fluency": 1.0, "density": 3.0})
    np.testing.assert_allclose(combined, [0.65, 0.6, np.nan], rtol=1e-6)


def test_thresholds_and_weights_are_no_part_of_the_measures(cache: Path) -> None:
    a, b = _step(cache), _step(cache, min_quality=0.9, weight={"kind": "constant"}, axes={"density": 1.0})
    assert a.compute_key() == b.compute_key() != _step(cache, seed=1).compute_key()


def test_step_drops_and_exports(cache: Path) -> None:
    rng = random.Random(2)
    good = " ".join(explanation(rng, "en") for _ in range(6))
    bad = "\n".join(phrases()["en"]["boilerplate"])
    outcome = run_in_memory([_step(cache, min_quality=0.5)], Docs.of([good, bad]))
    assert outcome.kept.texts == [good]
    assert [reason.split(":")[0] for _, _, reason in outcome.dropped] == ["low quality"]
    for name in Quality.exports:
        assert len(outcome.measures[f"quality.{name}"]) == 1
    assert outcome.measures["quality.level"].to_pylist()[0] in hard.LEVELS


def test_difficulty_orders_texts() -> None:
    easy = "The cat sat on the mat. It was a big red cat. The dog ran to it."
    dense = (
        "Notwithstanding considerable methodological heterogeneity, contemporary econometric investigations "
        "demonstrate statistically significant intergenerational transmission of socioeconomic disadvantage, "
        "particularly considering "
        "institutional characteristics."
    )
    assert hard.text_difficulty(easy, "en") < 0.2 < 0.6 < hard.text_difficulty(dense, "en")
    simple = "我们是好人。他在家。你来了。"
    rare = "饕餮纹饰镌刻于青铜鼎彝，氤氲缭绕，蔚为壮观，昭示着庙堂祭祀之肃穆与礼制之森严，亦折射先民对鬼神之敬畏。"
    assert hard.text_difficulty(simple, "zh") < hard.text_difficulty(rare, "zh")
    flat = "a = 1\nb = 2\nprint(a)\n"
    nested = "def f(x):\n    for i in range(len(x)):\n        if x[i]:\n            return [g(h(y), i) for y in x[i]]\n"
    assert hard.text_difficulty(flat, "code") < hard.text_difficulty(nested, "code")
    formula = "x is y. $\\int_0^1 \\frac{x}{y} = \\sum_i a_i^2$"
    assert hard.text_difficulty("x is y.", "en") < hard.text_difficulty(formula, "en")
    o = DifficultyOptions(medium_from=0.3, hard_from=0.6)
    assert [hard.level(v, o) for v in (0.1, 0.3, 0.6)] == ["easy", "medium", "hard"]


def test_flesch_kincaid_by_hand() -> None:
    # 2 sentences, 8 words, 9 groups of vowels: 0.39 · 4 + 11.8 · 9/8 − 15.59 = −0.755, below the scale's grade 2.
    assert hard.text_difficulty("The cat sat down. He is my brother.", "en") == 0.0
    # 1 sentence, 4 words, 4 + 4 + 4 + 5 groups: 0.39 · 4 + 11.8 · 17/4 − 15.59 = 36.12, above grade 18.
    assert hard.text_difficulty("Education education education universality.", "en") == 1.0
    # 1 sentence, 10 words, 13 groups of vowels: 0.39 · 10 + 11.8 · 1.3 − 15.59 = 3.65 → (3.65 − 2) / 16.
    text = "A small river runs into the ocean near my town."
    assert hard.text_difficulty(text, "en") == pytest.approx((3.9 + 11.8 * 1.3 - 15.59 - 2) / 16, abs=1e-6)


def test_perplexity_is_mixed_in_by_rank_within_a_language() -> None:
    text = np.full(4, 0.5, dtype=np.float32)
    mixed = hard.with_perplexity(text, np.array([1.0, 3.0, 9.0, np.nan]), ["en", "en", "zh", "zh"])
    np.testing.assert_allclose(mixed, [0.3 + 0.4 * 0.25, 0.3 + 0.4 * 0.75, 0.3 + 0.4 * 0.5, 0.5], rtol=1e-6)


def test_one_group_alone_trains() -> None:
    rng = random.Random(1)
    made = [Example(explanation(rng, "zh"), "zh", (1.0, None, None, rng.random())) for _ in range(40)]
    model = train(made)
    assert model.score(["光合作用是植物制造养分的过程。"], ["zh"]).shape == (1, len(AXES))

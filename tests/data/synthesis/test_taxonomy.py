"""The taxonomy: what it covers, that it is sound, and that a person's own file is laid on it or refused by line."""

import graphlib
import random

import pytest

from athanor.data.synthesis.custom import evaluate
from athanor.data.synthesis.generators.base import generators
from athanor.data.synthesis.points import load_taxonomy
from athanor.data.synthesis.types import LANGUAGES
from athanor.errors import AthanorError

TAXONOMY = load_taxonomy()


def test_it_is_large_bilingual_and_mostly_computed():
    points = TAXONOMY.points.values()
    assert len(points) >= 250
    assert sum(bool(p.served) for p in points) >= 0.6 * len(points)
    for subject in ("math", "code"):
        mine = [p for p in points if p.subject == subject]
        assert sum(bool(p.served) for p in mine) >= 0.6 * len(mine)
    for names in [*(p.names for p in points), *TAXONOMY.topics.values(), *TAXONOMY.subjects.values()]:
        assert not any("\u4e00" <= c <= "\u9fff" for c in names.en) and names.zh


def test_names_are_told_apart_within_a_topic():
    for language in LANGUAGES:
        names = [(p.subject, p.topic, p.names.of(language)) for p in TAXONOMY.points.values()]
        assert len(set(names)) == len(names)


def test_prerequisites_have_an_order():
    graph = {p.id: set(p.prerequisites) for p in TAXONOMY.points.values()}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert len(order) == len(graph)


def test_every_served_point_gives_a_question_at_both_ends_of_its_difficulty():
    """The kinds of programs have their own tests; every other generator with the options of its points."""
    for point in TAXONOMY.points.values():
        for served in (s for s in point.served if "program" not in s.options):
            for level in point.difficulty:
                tries = (
                    generators()[served.name](random.Random(f"{level}:{i}"), level, **served.options) for i in range(40)
                )
                assert any(t is not None for t in tries), (point.id, served, level)


def test_several_templates_of_every_kind_in_both_languages():
    for kind in ("solve", "output", "write", "fix", "complete", "explain"):
        for language in LANGUAGES:
            assert len(TAXONOMY.templates[kind][language]) >= 3


OWN = """
subject: physics
zh: 物理
en: Physics
topics:
  electricity:
    zh: 电学
    en: Electricity
    points:
      ohm:
        zh: 欧姆定律
        en: Ohm's law
        difficulty: [1, 3]
        prerequisites: [math.arithmetic.multiply]
        tasks:
          - let: {i: 1..9, r: [2, 5, 10]}
            where: i * r < 60
            zh: 电流 {i} A 通过 {r} Ω 的电阻，电压是多少伏？
            en: A current of {i} A flows through {r} Ω. What is the voltage in volts?
            answer: i * r
            steps: ["U = {i} × {r} = {answer}"]
templates:
  solve:
    zh: ["物理题：{question}"]
    en: ["Physics. {question}"]
"""


def test_an_own_file_adds_points_tasks_and_templates(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(OWN)
    taxonomy = load_taxonomy([file])
    assert len(taxonomy.points) == len(TAXONOMY.points) + 1
    point = taxonomy.points["physics.electricity.ohm"]
    made = [d for s in range(60) if (d := point.served[0].own.draw(random.Random(s), 3))]
    for draft in made:
        assert int(draft.answer.en) == int(draft.facts["i"]) * int(draft.facts["r"]) < 60
        assert draft.facts["i"] in draft.question.zh and draft.steps[0].en.endswith(draft.answer.en)
    assert max(int(d.facts["i"]) for d in made) <= 5, "level 3 of 5 draws from the first three fifths of the range"
    assert "Physics. {question}" in taxonomy.templates["solve"]["en"]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("en: Ohm's law", "english: x", 12, "english"),
        ("difficulty: [1, 3]", "difficulty: [3, 1]", 13, "within 1–5"),
        ("math.arithmetic.multiply", "math.arithmetic.muliply", 10, "unknown prerequisite"),
        ("where: i * r < 60", "where: i * q < 60", 10, "unknown name 'q'"),
        ("answer: i * r", "answer: __import__('os')", 10, "not allowed"),
        ("let: {i: 1..9", "let: {i: 9..1", 10, "no range"),
        ("where: i * r < 60", "where: i > 100", 10, "fulfil"),
        ("zh: 电流 {i} A", "zh: 电流 {j} A", 10, "unknown field 'j'"),
        ('["Physics. {question}"]', '["Physics. {query}"]', 25, "query"),
        ('["Physics. {question}"]', '["Physics."]', 25, "{question}"),
        ("subject: physics", "subject: Physics 1", 2, "subject"),
        ("        tasks:", "        generators: [gravity]\n        tasks:", 10, "unknown generator"),
        ("        tasks:", "        generators: [{roots: {power: 2}}]\n        tasks:", 10, "takes no option 'power'"),
        ("        tasks:", "        generators: [{unit: {quantity: love}}]\n        tasks:", 10, "cannot work with"),
        ("        tasks:", "        programs: [no_such]\n        tasks:", 10, "unknown program"),
    ],
)
def test_mistakes_are_told_with_file_and_line(tmp_path, old, new, line, words):
    file = tmp_path / "own.yaml"
    assert old in OWN
    file.write_text(OWN.replace(old, new, 1))
    with pytest.raises(AthanorError) as caught:
        load_taxonomy([file])
    told = str(caught.value)
    assert f"own.yaml:{line}" in told and words in told, told


def test_a_point_nobody_serves_and_a_missing_file(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("subject: math\ntopics:\n  t: {zh: 甲, en: T, points: {p: {zh: 乙, en: P}}}\n")
    with pytest.raises(AthanorError, match="nothing serves this point"):
        load_taxonomy([file])
    with pytest.raises(AthanorError, match="no such taxonomy file"):
        load_taxonomy([tmp_path / "none.yaml"])
    file.write_text("topics:\n  t: {zh: 甲, en: T}\n")
    with pytest.raises(AthanorError, match="topics without a subject"):
        load_taxonomy([file])


def test_selection():
    assert {p.topic for p in TAXONOMY.select(["math"], ["math.algebra.*"])} == {"algebra"}
    with pytest.raises(AthanorError, match="no knowledge point fits"):
        TAXONOMY.select([], ["math.algebr.*"])
    with pytest.raises(AthanorError, match="unknown subject 'maths'"):
        TAXONOMY.select(["maths"])


@pytest.mark.parametrize(
    "text", ["(1).__class__", "[1]", "x.y", "lambda: 1", "9**999", "open('a')", "1 if 2 else 3", "'a'*9", "2 +", "1/0"]
)
def test_expressions_are_arithmetic_and_nothing_else(text):
    with pytest.raises(ValueError):
        evaluate(text, {"x": 1})


def test_expressions_are_exact():
    assert str(evaluate("a / 3 + 0.1 - comb(5, 2) % 4 ** 1", {"a": 1})) == "-47/30"
    assert evaluate("1 < a <= 3 and not a == 2 or gcd(a, 6) == 6", {"a": 3}) is True

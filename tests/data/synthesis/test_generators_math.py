"""Every mathematical generator against an independent reference, at every difficulty and with every leaf's options."""

import random
import re
from fractions import Fraction

import pytest
import sympy as sp

from athanor.data.synthesis.generators.base import generators
from athanor.data.synthesis.points import load_taxonomy
from tests.data.synthesis import reference_counting, reference_shapes  # noqa: F401 (they register)
from tests.data.synthesis.reference_math import REFERENCE, X, expression

TAXONOMY = load_taxonomy()
POINTS = [p for p in TAXONOMY.points.values() if p.subject == "math" and p.served]


def _number(text):
    return expression(text.strip())


def _agrees(draft, expected):
    answer = draft.answer.en
    if isinstance(expected, tuple):  # a formula and its names: count the models
        tree, names = expected
        free = 2 ** (len(names) - len(tree.free_symbols))
        count = sum(1 for m in sp.satisfiable(tree, all_models=True) if m) if tree not in (sp.true, sp.false) else 0
        if tree == sp.true:
            return int(answer) == 2 ** len(names)
        return (
            int(answer)
            == sum(2 ** (len(tree.free_symbols) - len(m)) for m in sp.satisfiable(tree, all_models=True) if m) * free
            if count
            else int(answer) == 0
        )
    if isinstance(expected, str):
        return answer == expected
    if isinstance(expected, set):
        if all(isinstance(x, str) for x in expected):
            return set(answer.split(", ")) == expected
        return {_number(x) for x in answer.split(",")} == {sp.nsimplify(x) for x in expected}
    if isinstance(expected, list):
        return [_number(x) for x in answer.split(",")] == [
            sp.nsimplify(sp.sympify(str(x), rational=True)) for x in expected
        ]
    if draft.kind == "expression":
        return sp.simplify(expression(answer) - expected) == 0
    if isinstance(expected, Fraction):
        expected = sp.Rational(expected.numerator, expected.denominator)
    return sp.simplify(_number(answer) - sp.sympify(expected)) == 0


@pytest.mark.parametrize("topic", sorted({p.topic for p in POINTS}))
def test_every_answer_is_that_of_an_independent_reference(topic):
    for point in (p for p in POINTS if p.topic == topic):
        for served in point.served:
            made = 0
            for level in point.levels:
                for seed in range(12):
                    draft = generators()[served.name](
                        random.Random(f"{point.id}:{level}:{seed}"), level, **served.options
                    )
                    if draft is None:
                        continue
                    expected = REFERENCE[served.name](dict(draft.facts))
                    assert expected is not None, served.name
                    if served.name == "proposition" and isinstance(expected, tuple):
                        expected = expected[0], "PQ" if level < 3 else "PQR"
                    assert _agrees(draft, expected), (point.id, served.name, draft, expected)
                    made += 1
                    if made % 2 == 0:
                        break
            assert made, point.id


def test_every_generator_has_a_reference_and_serves_a_point():
    served = {s.name for p in TAXONOMY.points.values() for s in p.served}
    assert served == set(generators())
    modules = {n: f.__module__.rpartition(".")[2] for n, f in generators().items()}
    assert {n for n, m in modules.items() if m not in ("programs", "real_code")} == set(REFERENCE)


def _numbers(text):
    return re.findall(r"\d+(?:\.\d+)?", text)


def test_both_languages_tell_the_same_numbers():
    """What a question gives is given in both languages: the same numbers, as often, up to words like “two”."""
    for point in POINTS:
        for served in point.served:
            for seed in range(4):
                level = list(point.levels)[seed % len(point.levels)]
                draft = generators()[served.name](random.Random(seed), level, **served.options)
                if draft is None:
                    continue
                zh, en = _numbers(draft.question.zh), _numbers(draft.question.en)
                assert set(zh) ^ set(en) <= {"0", "1", "2", "3", "4", "9", "24", "90", "180"}, (
                    point.id,
                    draft.question,
                )


def test_steps_that_are_sums_are_right():
    """Every worked line ``a op b = c`` of whole numbers holds."""
    line = re.compile(r"^\(?(-?\d+)\)? ([+\-×÷]) \(?(-?\d+)\)? = (-?\d+)$")
    checked = 0
    for point in POINTS:
        for served in point.served:
            for seed in range(6):
                draft = generators()[served.name](random.Random(seed), list(point.levels)[-1], **served.options)
                for step in draft.steps if draft else ():
                    if found := line.match(step.en):
                        a, op, b, c = found.groups()
                        value = {
                            "+": lambda a, b: a + b,
                            "-": lambda a, b: a - b,
                            "×": lambda a, b: a * b,
                            "÷": Fraction,
                        }[op](int(a), int(b))
                        assert value == int(c), (point.id, step)
                        checked += 1
    assert checked > 300


def test_levels_grow():
    """Harder numbers: the answers of level 5 are longer than those of level 1, over many draws."""
    for name, options in (("add_subtract", {}), ("multiply", {}), ("fraction_op", {}), ("prime_factors", {})):
        sizes = {
            level: sum(len(generators()[name](random.Random(s), level, **options).question.en) for s in range(40))
            for level in (1, 5)
        }
        assert sizes[5] > sizes[1], name
    assert X is not None

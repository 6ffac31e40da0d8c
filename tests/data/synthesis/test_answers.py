"""When two answers are the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.data.synthesis.answers import check, same_answer, same_expression


@pytest.mark.parametrize(
    ("said", "expected", "kind"),
    [
        ("1/2", "0.5", "number"),
        (r"\frac{1}{2}", "1/2", "number"),
        (r"$\dfrac{\sqrt{3}}{2}$", "√3/2", "expression"),
        ("x = 7", "7", "number"),
        ("7 cm", "7", "number"),
        ("25%", "25", "number"),
        ("１２", "12", "number"),
        ("−3", "-3", "number"),
        ("(x+1)(x-2)", "x^2 - x - 2", "expression"),
        ("2x(x + 3)", "2x^2 + 6x", "expression"),
        ("3x²", "3x^2", "expression"),
        ("2, 1", "1, 2", "set"),
        ("x = 2, x = 1", "1, 2", "set"),
        ("{1, 2}", "1, 2", "set"),
        ("(1/2, 3)", "0.5, 3", "list"),
        ("1，2", "1, 2", "list"),
        ("o(n log n)", "O(n log n)", "text"),
        ("-√2/2", "-sqrt(2)/2", "expression"),
    ],
)
def test_equal(said, expected, kind):
    assert same_answer(said, expected, kind)


@pytest.mark.parametrize(
    ("said", "expected", "kind"),
    [
        ("1/3", "0.3333", "number"),
        ("2, 1", "1, 2", "list"),
        ("1, 2, 2", "1, 2", "set"),
        ("1, 1", "1, 2", "set"),
        ("x^2 - x + 2", "x^2 - x - 2", "expression"),
        ("", "1", "number"),
        ("seven", "7", "number"),
        ("71", "7", "number"),
        ("9**9**9**9", "7", "number"),
        ("1/0", "1/0 + 1", "expression"),
        ("__import__('os')", "1", "expression"),
        ("O(n)", "O(n^2)", "text"),
        ("x+" * 300 + "x", "301x", "expression"),
        ("(" * 200 + "1" + ")" * 200, "2", "number"),
    ],
)
def test_different(said, expected, kind):
    assert not same_answer(said, expected, kind)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=4), st.lists(st.integers(-9, 9), min_size=1, max_size=4))
def test_expressions_are_equal_exactly_when_polynomials_are(p, q):
    def text(c):
        return " + ".join(f"({a})x^{i}" for i, a in enumerate(c))

    def trimmed(c):
        while c and c[-1] == 0:
            c = c[:-1]
        return c

    assert same_expression(text(p), text(q)) == (trimmed(p) == trimmed(q))


def test_a_solution_announces_its_answer():
    assert check("3 + 4 = 7\nAnswer: 7", "7", "number")
    assert check("步骤……\n答案：x = 7。", "7", "number")
    assert check(r"so \boxed{7}", "7", "number")
    assert not check("The number 7 occurs\nin two lines", "7", "number")
    assert not check("Answer: 8, not 7", "7", "number")
    assert check("7", "7", "number")

"""Program families against references of their own, and the tasks made of them run in a separate Python."""

# ruff: noqa: E501 (one reference a line)

import ast
import copy
import itertools
import math
import random
import subprocess
import sys

import networkx as nx
import pytest

from athanor.data.synthesis import running
from athanor.data.synthesis.generators.base import generators
from athanor.data.synthesis.generators.programs import ORDERS, growth, mutants
from athanor.data.synthesis.programs.base import instance, programs
from athanor.data.synthesis.sandbox import Limits, run
from athanor.data.synthesis.types import Both


def _graph(table):
    return nx.Graph([(a, b) for a, others in table.items() for b in others]) if any(table.values()) else nx.Graph()


def _with_nodes(graph, nodes):
    graph.add_nodes_from(nodes)
    return graph


def _lis(items):
    return max(
        len(c)
        for k in range(1, len(items) + 1)
        for c in itertools.combinations(items, k)
        if all(a < b for a, b in zip(c, c[1:], strict=False))
    )


def _subsequences(text):
    return {"".join(c) for k in range(len(text) + 1) for c in itertools.combinations(text, k)}


#: name → (arguments → result) another way; families with parameters are checked where the parameter is a constant name.
REFERENCE = {
    "digit_sum": lambda n: sum(map(int, str(n))),
    "factorial": math.factorial,
    "is_prime": lambda n: n > 1 and all(n % d for d in range(2, n)),
    "euclid": math.gcd,
    "sieve": lambda n: [p for p in range(2, n + 1) if all(p % d for d in range(2, p))],
    "count_bits": lambda n: bin(n).count("1"),
    "integer_sqrt": math.isqrt,
    "reverse_digits": lambda n: int(str(n)[::-1]),
    "divisor_pairs": lambda n: sum(n % d == 0 for d in range(1, n + 1)),
    "coprime_pairs": lambda n: sum(math.gcd(a, n - a) == 1 for a in range(1, n // 2 + 1)),
    "argmax": lambda xs: xs.index(max(xs)),
    "unique": lambda xs: list(dict.fromkeys(xs)),
    "prefix_sums": lambda xs: list(itertools.accumulate(xs)),
    "pair_sum": lambda xs, t: any(a + b == t for a, b in itertools.combinations(xs, 2)),
    "merge_sorted": lambda a, b: sorted(a + b),
    "zeros_last": lambda xs: sorted(xs, key=lambda x: x == 0),
    "transpose": lambda rows: [list(c) for c in zip(*rows, strict=True)],
    "next_greater": lambda xs: [next((y for y in xs[i + 1 :] if y > x), -1) for i, x in enumerate(xs)],
    "flatten": lambda rows: list(itertools.chain.from_iterable(rows)),
    "count_vowels": lambda s: sum(s.count(v) for v in "aeiou"),
    "run_length": lambda s: "".join(c + str(len(list(g))) for c, g in itertools.groupby(s)),
    "anagrams": lambda a, b: all(a.count(c) == b.count(c) for c in set(a + b)),
    "common_prefix": lambda a, b: __import__("os").path.commonprefix([a, b]),
    "longest_unique": lambda s: max(
        (j - i for i in range(len(s)) for j in range(i + 1, len(s) + 1) if len(set(s[i:j])) == j - i), default=0
    ),
    "byte_surplus": lambda s: sum(len(c.encode()) - 1 for c in s),
    "char_counts": lambda s: dict(__import__("collections").Counter(s)),
    "two_sum": lambda xs, t: next(
        ([i, j] for j in range(len(xs)) for i in reversed(range(j)) if xs[i] + xs[j] == t), []
    ),
    "common": lambda a, b: [x for x in range(100) if x in a and x in b],
    "fib": lambda n: round(((1 + 5**0.5) / 2) ** n / 5**0.5),
    "recursive_sum": sum,
    "permutations": lambda s: sorted({"".join(p) for p in itertools.permutations(s)}),
    "queens": lambda n: sum(
        len({c + i for i, c in enumerate(p)}) == len({c - i for i, c in enumerate(p)}) == n
        for p in itertools.permutations(range(n))
    ),
    "divide_max": max,
    "parentheses": lambda n: [
        s
        for s in map("".join, itertools.product("()", repeat=2 * n))
        if s.count("(") == n and all(s[:i].count("(") >= s[:i].count(")") for i in range(2 * n))
    ],
    "all_subsets": None,
    "bubble_sort": sorted,
    "bubble_swaps": lambda xs: sum(a > b for a, b in itertools.combinations(xs, 2)),
    "insertion_sort": sorted,
    "merge_sort": sorted,
    "quick_sort": sorted,
    "inversions": lambda xs: sum(a > b for a, b in itertools.combinations(xs, 2)),
    "linear_search": lambda xs, t: xs.index(t) if t in xs else -1,
    "binary_search": lambda xs, t: xs.index(t) if t in xs else -1,
    "lower_bound": lambda xs, t: __import__("bisect").bisect_left(xs, t),
    "activities": lambda spans: max(
        (
            k
            for k in range(len(spans) + 1)
            for c in itertools.combinations(spans, k)
            if all(a[1] <= b[0] for a, b in zip(sorted(c), sorted(c)[1:], strict=False))
        ),
        default=0,
    ),
    "single_number": lambda xs: next(x for x in xs if xs.count(x) == 1),
    "majority": lambda xs: max(set(xs), key=xs.count),
    "best_profit": lambda p: max([b - a for a, b in itertools.combinations(p, 2)] + [0]),
    "hops": lambda g, a, b: (
        nx.shortest_path_length(h, a, b) if nx.has_path(h := _with_nodes(_graph(g), g), a, b) else -1
    ),
    "components": lambda g: nx.number_connected_components(_with_nodes(_graph(g), g)),
    "topological": lambda n, e: (
        list(nx.lexicographical_topological_sort(g))
        if nx.is_directed_acyclic_graph(g := _with_nodes(nx.DiGraph(e), range(n)))
        else []
    ),
    "union_find": lambda n, e: nx.number_connected_components(_with_nodes(nx.Graph(e), range(n))),
    "kruskal": lambda n, e: nx.minimum_spanning_tree(_multi(n, e)).size("weight"),
    "dijkstra": lambda g: [nx.single_source_dijkstra_path_length(_weighted(g), 0).get(i) for i in range(len(g))],
    "fib_table": lambda n: sum(math.comb(n - 1 - k, k) for k in range(n)) if n else 0,
    "longest_increasing": _lis,
    "common_subsequence": lambda a, b: max(map(len, _subsequences(a) & _subsequences(b))),
    "knapsack": lambda c, g: max(
        sum(v for _, v in s)
        for k in range(len(g) + 1)
        for s in itertools.combinations(g, k)
        if sum(w for w, _ in s) <= c
    ),
    "max_run": lambda xs: max(sum(xs[i:j]) for i in range(len(xs)) for j in range(i + 1, len(xs) + 1)),
    "subset_sum": lambda xs, t: any(sum(c) == t for k in range(len(xs) + 1) for c in itertools.combinations(xs, k)),
    "catalan": lambda n: math.comb(2 * n, n) // (n + 1),
    "longest_palindrome": lambda s: max(
        j - i for i in range(len(s)) for j in range(i + 1, len(s) + 1) if s[i:j] == s[i:j][::-1]
    ),
    "no_neighbours": lambda xs: max(
        sum(x for i, x in enumerate(xs) if m >> i & 1) for m in range(2 ** len(xs)) if not m & m >> 1
    ),
    "linked_list": lambda xs: xs,
    "bst_preorder": None,
    "count_pairs": None,
}


def _multi(n, edges):
    graph = _with_nodes(nx.Graph(), range(n))
    for w, a, b in edges:
        if not graph.has_edge(a, b) or graph[a][b]["weight"] > w:
            graph.add_edge(a, b, weight=w)
    return graph


def _weighted(table):
    graph = _with_nodes(nx.DiGraph(), table)
    for a, others in table.items():
        for b, w in others:
            graph.add_edge(a, b, weight=w)
    return graph


@pytest.mark.parametrize("name", [n for n, f in REFERENCE.items() if f is not None])
def test_families_do_what_they_say(name):
    family = programs()[name]
    for seed in range(8):
        r = random.Random(f"{name}:{seed}")
        args = family.inputs(r, 4 + seed % 8)
        assert family.function(*copy.deepcopy(args)) == REFERENCE[name](*copy.deepcopy(args)), (name, args)


def test_parameters_are_fixed_and_described():
    for name, family in programs().items():
        made = instance(name, random.Random(1))
        assert not made.tree.args.kwonlyargs
        for text in made.about:
            assert all("{" + key + "}" not in text for key in family.parameters), name
        args = family.inputs(random.Random(2), 7)
        expected = family.function(*copy.deepcopy(args), **made.constants)
        assert running.load(made.source, name)(*copy.deepcopy(args)) == expected, name


def test_sources_stand_alone_and_print_what_was_said():
    """A sample of “what does this print” tasks, run as scripts by another Python: one process for all of them."""
    parts, answers = [], []
    for i, name in enumerate(sorted(programs())):
        draft = generators()["predict_output"](random.Random(i), 1 + i % 5, program=name)
        if draft is None:
            continue
        source = draft.question.en.split("```python\n")[1].rsplit("\n```", 1)[0]
        parts.append(source)
        answers.append(draft.answer.en)
    script = "import contextlib, io, json\nout = []\n" + "\n".join(
        f"b = io.StringIO()\nwith contextlib.redirect_stdout(b):\n    exec({part!r}, {{'__name__': 'x'}})\nout.append(b.getvalue().removesuffix(chr(10)))"
        for part in parts
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script + "\nprint(json.dumps(out))"], capture_output=True, text=True, check=True
    )
    import json

    assert json.loads(done.stdout) == answers
    assert len(answers) > 150


@pytest.mark.parametrize("kind", ["write_function", "fix_bug", "complete_line"])
def test_answers_pass_their_tests_and_questions_do_not(kind):
    for i, name in enumerate(random.Random(kind).sample(sorted(programs()), 7)):
        draft = generators()[kind](random.Random(i), 1 + i % 5, program=name)
        if draft is None:
            continue
        answer = draft.answer.en.removeprefix("```python\n").removesuffix("\n```")
        assert run(answer, draft.tests).ok, (name, run(answer, draft.tests))
        if kind != "write_function":
            broken = draft.question.en.split("```python\n")[1].split("\n```")[0]
            assert not run(broken, draft.tests, Limits(cpu_s=1)).ok, (name, broken)


def test_line_counts_are_those_of_a_counter_in_the_source():
    """How often a statement runs, counted by a statement put before it and not by a trace."""
    checked = 0
    for i, name in enumerate(sorted(programs())):
        draft = generators()["count_steps"](random.Random(i), 3, program=name)
        if draft is None or checked == 25:
            continue
        lines = draft.facts["source"].splitlines()
        at = draft.facts["line"] - 1
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        counted = "\n".join([*lines[:at], f"{indent}HITS.append(1)", *lines[at:]])
        space = {"HITS": []}
        exec(counted + "\n" + draft.facts["call"], space)
        assert len(space["HITS"]) == int(draft.answer.en), (name, counted)
        checked += 1
    assert checked >= 15


def test_growth_is_told_apart():
    for name, family in programs().items():
        if family.order:
            measured = growth(family, instance(name, random.Random(0), plain=True))
            _, low, high = ORDERS[family.order]
            assert low <= measured[-1][1] / measured[-2][1] <= high, (name, measured)


def test_mutants_differ_in_one_place_and_are_kept_in_bounds():
    tree = instance("binary_search", random.Random(0), plain=True).tree
    before = ast.dump(tree)
    texts = {ast.unparse(m) for m in mutants(tree, random.Random(0))}
    assert len(texts) >= 8 and ast.unparse(tree) not in texts and ast.dump(tree) == before
    with pytest.raises(running.OverBudgetError):
        running.call(running.load("def f(x):\n    while True:\n        x = x * x\n", "f"), (3,))
    with pytest.raises(running.OverBudgetError):
        running.call(running.load("def f(x):\n    while True:\n        x = x\n", "f"), (3,))


def test_descriptions_are_in_both_languages():
    for family in programs().values():
        assert isinstance(family.about, Both)
        assert any("\u4e00" <= c <= "\u9fff" for c in family.about.zh)
        assert not any("\u4e00" <= c <= "\u9fff" for c in family.about.en)

"""Posing and solving by a model: what verifies is kept, everything else is counted with its reason."""

# ruff: noqa: E501 (a scripted reply is one line)

import json

import pytest

from athanor.data.synthesis.asking import Endpoint, Reply, Request, Usage, open_model
from athanor.data.synthesis.engine import Coverage
from athanor.data.synthesis.language_model import (
    Posed,
    Poser,
    RejectedError,
    in_language,
    parse_posed,
    solved,
    verify_code,
    vote,
)
from athanor.data.synthesis.types import question_key
from athanor.data.synthesis.writing import tasks_of, write_tasks
from athanor.model.hf import save_model_dir
from athanor.recipe.synthesis import EndpointOptions, SynthesisOptions
from athanor.tokenizer.train import train_tokenizer
from tests.data.synthesis.stub_endpoint import serving
from tests.inference.small import small_decoder


def options(url="http://localhost:1", **more):
    endpoint = EndpointOptions(
        url=url, samples=more.pop("samples", 5), concurrency=4, retries=0, **more.pop("endpoint", {})
    )
    return SynthesisOptions(endpoint=endpoint, **more)


class Scripted:
    """A model in this process: prompt → text."""

    def __init__(self, answer):
        self.answer, self.usage, self.asked = answer, Usage(), []

    def ask(self, requests):
        for request in requests:
            self.asked.append(request)
            said = self.answer(request.messages[-1][1], request.seed)
            yield said if isinstance(said, Reply) else Reply(said)


def posed(question, answer="42", solution="so it is"):
    return json.dumps({"question": question, "solution": solution, "answer": answer})


def is_pose(prompt):
    return "JSON" in prompt


def test_a_problem_is_kept_when_its_solutions_agree():
    def answer(prompt, seed):
        return posed(f"What is 6 times 7, case {seed}?") if is_pose(prompt) else "6 × 7 = 42\nAnswer: 42"

    coverage = Coverage()
    tasks = list(Poser(Scripted(answer), options(languages=["en"], subjects=["math"]), 0, coverage).tasks(6))
    assert len(tasks) == 6 and {t.verified_by for t in tasks} == {"majority 5/5"}
    assert all(t.solution.endswith("42") and t.answer == "42" and t.question in t.prompt for t in tasks)
    assert len({t.point for t in tasks}) > 1 and coverage.made == 6
    assert tasks[0].key == question_key(tasks[0].question)


def test_every_way_to_fail_has_its_reason():
    scripts = {
        0: "I would rather not.",
        1: posed("今天天气如何，题目用中文写？"),
        2: json.dumps({"question": "What is it?", "solution": "x"}),
        3: posed("Case 3: what is 6 × 7?", "41"),
        4: posed("Case 4: what do they not agree on?"),
        5: posed("Case 5: what is 6 × 7?"),
        6: posed("Case 5: what is 6 × 7?"),
        7: Reply(None, "status 500"),
        8: "[1, 2]",
        9: posed("x" * 9_000),
    }

    def answer(prompt, seed):
        if is_pose(prompt):
            return scripts.get(seed, "nothing more")
        return f"Answer: {seed}" if "Case 4" in prompt else "Answer: 42"

    coverage = Coverage()
    tasks = list(Poser(Scripted(answer), options(languages=["en"], subjects=["math"]), 0, coverage).tasks(10))
    assert [t.question for t in tasks] == ["Case 5: what is 6 × 7?"]
    told = {k: v for k, v in coverage.rejected.items() if k != "no JSON object"}
    assert told == {
        "wrong language": 1, "no answer": 1, "the majority contradicts the stated answer": 1, "no majority": 1,
        "repeated question": 1, "status 500": 1, "too long": 1,
    }  # fmt: skip
    assert coverage.rejected["no JSON object"] >= 2


def test_votes():
    assert vote(["1/2", "0.5", "3"], r"\frac{1}{2}", 0.6, 3) == "majority 2/3"
    with pytest.raises(RejectedError, match="no majority"):
        vote(["1", "1"], "1", 0.6, 5)
    with pytest.raises(RejectedError, match="contradicts"):
        vote(["1", "1", "1"], "2", 0.6, 3)
    with pytest.raises(RejectedError, match="no majority"):
        vote([], "2", 0.6, 3)
    assert vote(["Monday", "monday", "Monday."], "Monday", 0.6, 3) == "majority 3/3"


GOOD = "def double(x):\n    return 2 * x"


@pytest.mark.parametrize(
    ("solution", "tests", "reason"),
    [
        (GOOD, ["assert double(2) == 4", "assert double(0) == 0", "assert double(-1) == -2"], None),
        (
            f"Idea:\n```python\n{GOOD}\n```\nDone.",
            ["assert double(2) == 4", "assert double(0) == 0", "assert double(3) == 6"],
            None,
        ),
        (GOOD, ["assert double(2) == 4"] * 5, "fewer than 3"),
        (GOOD, ["assert double(2) == 5", "assert double(0) == 0", "assert double(1) == 2"], "solution: wrong"),
        (
            "def double(x) return",
            ["assert double(2) == 4", "assert double(0) == 0", "assert double(1) == 2"],
            "solution: error",
        ),
        (GOOD, ["assert True", "assert 1 == 1", "assert callable(double)"], "pass without a solution"),
        (
            "import socket\nsocket.socket()",
            ["assert double(2) == 4", "assert double(0) == 0", "assert 1"],
            "solution: error",
        ),
    ],
)
def test_code_is_run(solution, tests, reason):
    problem = Posed("Write double(x).", solution, "", tuple(tests))
    if reason is None:
        verify_code(problem)
    else:
        with pytest.raises(RejectedError, match=reason):
            verify_code(problem)


def test_posed_code_becomes_a_task_with_tests():
    def answer(prompt, seed):
        tests = ["assert double(2) == 4", "assert double(0) == 0", f"assert double({seed}) == {2 * seed}"]
        return (
            "Here:\n```json\n"
            + json.dumps(
                {"question": f"写函数 double(x)，返回 x 的两倍（第 {seed} 题）。", "solution": GOOD, "tests": tests}
            )
            + "\n```"
        )

    tasks = list(Poser(Scripted(answer), options(languages=["zh"], subjects=["code"]), 0, Coverage()).tasks(3))
    assert len(tasks) == 3 and all(
        t.kind == "code" and len(t.tests) == 3 and t.verified_by == "tests executed" for t in tasks
    )


def test_solutions_of_computed_tasks_are_kept_only_when_right():
    """The stub solves by parsing the sum; every third try it errs, and some texts announce nothing."""

    def answer(prompt, seed):
        import re

        a, b = map(int, re.search(r"(\d+) \+ (\d+)", prompt).groups())
        return ["I do not know\nat all", f"Sum.\nAnswer: {a + b + 1}", f"Adding gives {a + b}.\nAnswer: {a + b}"][
            seed % 3
        ]

    coverage = Coverage()
    made = options(points=["math.arithmetic.add"], difficulty=(1, 2), samples=3, languages=["en"])
    tasks = list(solved(Scripted(answer), made, 10, 0, coverage))
    assert len(tasks) == 10 and all(t.solution.startswith("Adding") for t in tasks)
    assert {t.verified_by for t in tasks} == {"model, computed"} and coverage.rejected["wrong answer"] > 10


def test_parsing():
    assert parse_posed('Sure! {"question": "q", "solution": "a\nb", "answer": 3} Bye', False).answer == "3"
    with pytest.raises(RejectedError, match="tests are no list"):
        parse_posed('{"question": "q", "solution": "s", "tests": "assert 1"}', True)
    with pytest.raises(RejectedError, match="no JSON"):
        parse_posed("{" * 5_000, False)
    assert in_language("求 3+4 的和是多少", "zh") and not in_language("What is 3+4?", "zh")
    assert in_language("What is 3+4?", "en") and not in_language("求和 3+4 是多少", "en")


def test_a_whole_run_over_http_is_resumed_from_its_cache(tmp_path):
    def answer(prompt, body, number):
        return posed(f"What is the value of case {body['seed']}?") if is_pose(prompt) else "Answer: 42"

    out = tmp_path / "t.jsonl"
    with serving(answer) as stub:
        cache = {"cache": str(tmp_path / "asked.jsonl")}
        made = options(stub.url, languages=["en"], subjects=["math"], endpoint=cache, samples=3)
        first = write_tasks(made, 5, 0, out, "conversations")
        text, asked = out.read_text(), len(stub.bodies)
        second = write_tasks(made, 5, 0, out, "conversations")
        assert out.read_text() == text and len(stub.bodies) == asked
        assert first.usage.requests == asked and second.usage.cached == asked
    report = json.loads((tmp_path / "t.report.json").read_text())
    assert report["usage"]["cached"] == asked and report["verified_by"] == {"majority 3/3": 5}


def test_a_spent_budget_ends_the_run():
    with serving(lambda prompt, body, number: "no") as stub:
        coverage = Coverage()
        made = options(stub.url, subjects=["math"], endpoint={"max_requests": 7})
        assert list(tasks_of(made, 100, 0, 1, coverage)) == []
        assert len(stub.bodies) == 7 and coverage.rejected["budget used up"] >= 1
    assert isinstance(open_model(made.endpoint), Endpoint) and Request.of("a", 1, 0.0).chat() == [
        {"role": "user", "content": "a"}
    ]


def test_a_model_directory_answers_by_request_and_seed(tmp_path):
    """An untrained model: its texts say nothing, but each request has its own, kept in the cache."""
    tokenizer = train_tokenizer(["the cat sat on the mat", "小明有三个苹果"] * 3, 280)
    save_model_dir(small_decoder(vocab_size=280, max_position_embeddings=900), tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    endpoint = EndpointOptions(
        model_dir=str(tmp_path / "model"), max_new_tokens=12, cache=str(tmp_path / "asked.jsonl")
    )
    model = open_model(endpoint)
    asked = [Request.of("the cat", seed, 1.0) for seed in range(4)] + [Request.of("x" * 3_000, 0, 1.0)]
    replies = list(model.ask(asked))
    assert len({r.text for r in replies[:4]}) > 1 and replies[4].error == "prompt longer than the context"
    again = open_model(endpoint)
    one = list(again.ask([asked[2], asked[0]]))
    assert [r.text for r in one] == [replies[2].text, replies[0].text] and again.usage.requests == 0
    alone = open_model(endpoint.model_copy(update={"cache": None}))
    assert next(iter(alone.ask([asked[2]]))).text == replies[2].text, "what shares the batch changes nothing"
    coverage = Coverage()
    made = SynthesisOptions(endpoint=endpoint, subjects=["math"])
    assert list(tasks_of(made, 1, 0, 1, coverage)) == [] and sum(coverage.rejected.values()) > 0

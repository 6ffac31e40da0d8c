"""The judge against a local stub of an OpenAI-compatible endpoint: answers checked, tried again, kept, budgeted."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from athanor.commands.data_quality import quality_app
from athanor.data.steps import judge_client
from athanor.data.steps.base import Docs, run_in_memory, text_key
from athanor.data.steps.judge import Judge
from athanor.data.steps.judge_client import parse, question
from athanor.data.steps.quality_examples import AXES
from athanor.errors import AthanorError
from athanor.recipe.steps.quality import JudgeOptions

GOOD = {"cleanliness": 9, "fluency": 8, "educational": 7, "density": 6}


class Stub:
    """Answers by ``reply(n, body)`` → (status, content); ``bodies`` are what was asked, ``keys`` the authorisations."""

    def __init__(self) -> None:
        self.reply: Callable[[int, Any], tuple[int, str]] = lambda n, body: (200, json.dumps(GOOD))
        self.bodies: list[Any] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub.lock:
                    stub.bodies.append(body)
                    stub.keys.append(self.headers.get("Authorization"))
                    n = len(stub.bodies)
                status, content = stub.reply(n, body)
                raw = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setattr(judge_client, "_BACKOFF_S", 0.01)
    made = Stub()
    yield made
    made.server.shutdown()
    made.server.server_close()


def _judge(stub: Stub, cache: Path, **options: Any) -> Judge:
    given = {"endpoint": stub.url, "model": "m", "cache_dir": str(cache), "share": 1.0, "timeout_s": 5.0, **options}
    return Judge(JudgeOptions.model_validate(given))


def test_answers_are_checked() -> None:
    assert parse(json.dumps(GOOD)) == {axis: value / 10 for axis, value in GOOD.items()}
    assert parse(f"Here you are:\n```json\n{json.dumps(GOOD)}\n```") is not None
    assert parse(f'first {{"x": 1}} then {json.dumps(GOOD)} done') is not None
    changed = [json.dumps({**GOOD, "density": value}) for value in (11, -1, "6", True, None)]
    for bad in ("", "9 8 7 6", '{"cleanliness": 9}', '{"cleanliness": NaN}', *changed):
        assert parse(bad) is None, bad


def test_questions_are_in_the_texts_language() -> None:
    assert "洁净度" in question("这是一段中文文本。", 100) and "cleanliness:" in question("An English text.", 100)
    assert "abcde" in question("abcdefgh", 5) and "f" not in question("zzzzzf", 5).rsplit("-----", 2)[1]


def test_scores_reach_the_columns(stub: Stub, tmp_path: Path) -> None:
    outcome = run_in_memory([_judge(stub, tmp_path)], Docs.of(["one text", "另一段文字"]))
    assert outcome.measures["judge.fluency"].to_pylist() == pytest.approx([0.8, 0.8])
    assert outcome.measures["judge.quality"].to_pylist() == pytest.approx([0.75, 0.75])
    assert {body["model"] for body in stub.bodies} == {"m"} and all(body["temperature"] == 0 for body in stub.bodies)


def test_answers_are_kept_by_content(stub: Stub, tmp_path: Path) -> None:
    docs = Docs.of(["a", "b", "a"])
    run_in_memory([_judge(stub, tmp_path)], docs)
    assert len(stub.bodies) == 2
    run_in_memory([_judge(stub, tmp_path)], docs)
    assert len(stub.bodies) == 2
    run_in_memory([_judge(stub, tmp_path, model="other")], docs)
    assert len(stub.bodies) == 4


def test_bad_answers_and_overload_are_tried_again(stub: Stub, tmp_path: Path) -> None:
    replies = {1: (200, "no idea"), 2: (503, "")}
    stub.reply = lambda n, body: replies.get(n, (200, json.dumps(GOOD)))
    outcome = run_in_memory([_judge(stub, tmp_path, retries=2)], Docs.of(["one"]))
    assert len(stub.bodies) == 3 and outcome.measures["judge.density"].to_pylist() == pytest.approx([0.6])


def test_what_stays_unanswered_is_nan_and_not_dropped(stub: Stub, tmp_path: Path) -> None:
    stub.reply = lambda n, body: (200, "no" if "stubborn" in body["messages"][0]["content"] else json.dumps(GOOD))
    texts = ["stubborn", "fine"]
    outcome = run_in_memory([_judge(stub, tmp_path, retries=1, min_quality=0.5)], Docs.of(texts))
    values = dict(zip(outcome.kept.texts, outcome.measures["judge.quality"].to_pylist(), strict=True))
    assert np.isnan(values["stubborn"]) and values["fine"] == pytest.approx(0.75)
    weights = dict(zip(outcome.kept.texts, outcome.measures["judge.weight"].to_pylist(), strict=True))
    assert weights["stubborn"] == 1.0


def test_budget_takes_the_same_documents_in_any_order(stub: Stub, tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(12)]
    chosen = sorted(texts, key=text_key)[:4]
    for number, order in enumerate((texts, texts[::-1])):
        outcome = run_in_memory([_judge(stub, tmp_path / str(number), max_documents=4)], Docs.of(order))
        values = zip(outcome.kept.texts, outcome.measures["judge.quality"].to_pylist(), strict=True)
        assert sorted(text for text, value in values if not np.isnan(value)) == sorted(chosen)
    assert len(stub.bodies) == 8


def test_no_judge_is_an_error(stub: Stub, tmp_path: Path) -> None:
    stub.reply = lambda n, body: (401, "")
    with pytest.raises(AthanorError, match="401"):
        run_in_memory([_judge(stub, tmp_path)], Docs.of(["one"]))
    assert len(stub.bodies) == 1  # a refusal is not asked again


def test_a_slow_judge_times_out(stub: Stub, tmp_path: Path) -> None:
    waits = threading.Event()

    def slow(n: int, body: Any) -> tuple[int, str]:
        waits.wait(2)
        return 200, json.dumps(GOOD)

    stub.reply = slow
    with pytest.raises(AthanorError, match="timeout"):
        run_in_memory([_judge(stub, tmp_path, timeout_s=0.2, retries=0)], Docs.of(["one"]))
    waits.set()


def test_the_key_comes_from_the_environment(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3")
    run_in_memory([_judge(stub, tmp_path, api_key_env="JUDGE_KEY")], Docs.of(["one"]))
    assert stub.keys == ["Bearer s3"]
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(AthanorError, match="JUDGE_KEY"):
        run_in_memory([_judge(stub, tmp_path, api_key_env="JUDGE_KEY")], Docs.of(["two"]))


def test_command_writes_labels_that_train_takes(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stub.reply = lambda n, body: (
        200,
        json.dumps({axis: 9 if "good" in body["messages"][0]["content"] else 1 for axis in AXES}),
    )
    texts, labels = tmp_path / "texts.jsonl", tmp_path / "labels.jsonl"
    rows = [{"text": f"a {'good' if i % 2 else 'poor'} text number {i}"} for i in range(20)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = CliRunner().invoke(
        quality_app, ["judge", str(texts), "--endpoint", stub.url, "--model", "m", "-o", str(labels)]
    )
    assert said.exit_code == 0, said.output
    written = [json.loads(line) for line in labels.read_text().splitlines()]
    assert [row["text"] for row in written] == [row["text"] for row in rows]
    assert {row["density"] for row in written} == {0.1, 0.9}

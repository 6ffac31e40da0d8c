"""The curation pipeline: one corpus whatever the order, the cuts, the workers and the engine; nothing done twice."""

from __future__ import annotations

import errno
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from athanor.data.build import CorpusDir, build_corpus
from athanor.data.pipeline import browse, segment
from athanor.data.steps import registry
from athanor.data.steps.base import Columns, Docs, Step, Survey, Verdict, run_in_memory
from athanor.data.steps.length import Length
from athanor.data.types import SPLITS
from athanor.errors import AthanorError
from athanor.recipe.schema import Recipe


def rows(n: int = 400) -> list[str]:
    """Texts of several lengths in two scripts, some of them twice."""
    rng = random.Random(3)
    texts = [f"文档 {i}：" + "炉火纯青。" * rng.randint(0, 60) for i in range(n // 2)]
    texts += [f"document {i}: " + "an even heat " * rng.randint(0, 40) for i in range(n // 2)]
    return texts + texts[:20]


def write_rows(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def recipe_for(folder: Path, min_chars: int = 120, **data: Any) -> Recipe:
    sources = {"web": {"paths": [str(folder)], "holdout": 0.2}}
    steps = data.pop("steps", [{"step": "length", "min_chars": min_chars}])
    return Recipe.model_validate({"data": {"sources": sources, "steps": steps, "workers": 1, **data}})


def corpus_texts(corpus: CorpusDir) -> dict[str, list[str]]:
    return {split: [d.text for d in corpus.documents("web", split)] for split in SPLITS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "in" / "a.jsonl", rows())
    return tmp_path / "in"


def test_the_same_corpus_whatever_the_order_the_cuts_the_workers_and_the_engine(folder: Path, tmp_path: Path) -> None:
    first = corpus_texts(build_corpus(recipe_for(folder), tmp_path / "one"))
    expected = run_in_memory([Length(recipe_for(folder).data.steps[0])], Docs.of(rows())).kept.texts
    assert sorted(first["train"] + first["valid"]) == sorted(expected)
    assert first["valid"]

    shuffled = tmp_path / "shuffled"
    texts = rows()
    random.Random(7).shuffle(texts)
    write_rows(shuffled / "b.jsonl", texts[:150])
    write_rows(shuffled / "deep" / "c.jsonl", texts[150:])
    assert corpus_texts(build_corpus(recipe_for(shuffled), tmp_path / "two")) == first
    assert corpus_texts(build_corpus(recipe_for(folder, part_bytes=9_000, workers=2), tmp_path / "three")) == first
    trove = recipe_for(folder, part_bytes=9_000, workers=2, engine="datatrove")
    built = build_corpus(trove, tmp_path / "four")
    assert corpus_texts(built) == first
    for split in SPLITS:  # to the byte
        name = f"web/{split}.jsonl.zst"
        assert (tmp_path / "four" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()
    assert list((tmp_path / "four" / "work" / "datatrove" / "completions").iterdir())  # the engine did the work


def test_changing_a_threshold_measures_nothing_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    measured: list[int] = []
    annotate = Length.annotate
    monkeypatch.setattr(Length, "annotate", lambda self, docs: measured.append(len(docs)) or annotate(self, docs))
    build_corpus(recipe_for(folder), out)
    assert sum(measured) == len(rows())
    strict = recipe_for(folder, min_chars=300)
    with pytest.raises(AthanorError, match="another recipe") as refused:
        build_corpus(strict, out)
    assert "--replace" in str(refused.value)
    found = corpus_texts(build_corpus(strict, out, replace=True))
    assert sum(measured) == len(rows())
    assert found == corpus_texts(build_corpus(strict, tmp_path / "fresh"))


def test_a_filter_before_another_measures_only_what_it_lets_through_now(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    two = [{"step": "length", "min_chars": 200}, {"step": "length", "max_chars": 400}]
    tight = build_corpus(recipe_for(folder, steps=two), out)
    loose = [{"step": "length", "min_chars": 50}, {"step": "length", "max_chars": 400}]
    found = corpus_texts(build_corpus(recipe_for(folder, steps=loose), out, replace=True))
    assert found == corpus_texts(build_corpus(recipe_for(folder, steps=loose), tmp_path / "fresh"))
    assert tight.report["steps"][1]["name"] == "length~2"


class Rank(Step):
    """Keeps the longest of the documents that begin with the same word, and says so in their text."""

    name = "rank"
    fields = {"first": pa.string(), "n": pa.int64()}
    resolved = {"best": pa.bool_()}
    edits = True
    exports = ("n",)

    def annotate(self, docs: Docs) -> Columns:
        return {"first": [text[:3] for text in docs.texts], "n": [len(text) for text in docs.texts]}

    def resolve(self, survey: Survey) -> Columns:
        best: dict[str, tuple[int, str]] = {}
        table = list(zip(*(survey.column(c).to_pylist() for c in ("first", "n", "key")), strict=True))
        for first, n, key in table:
            best[first] = max(best.get(first, (0, "")), (n, key))
        return {"best": np.array([best[first] == (n, key) for first, n, key in table])}

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        best = columns["best"].to_pylist()
        return Verdict([None if ok else "not the longest" for ok in best], [text + "!" for text in docs.texts])


def test_a_comparison_sees_all_documents_alive_and_only_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "make", lambda o: Rank(o) if o.max_chars == 9999 else Length(o))
    steps = [{"step": "length", "max_chars": 250}, {"step": "length", "max_chars": 9999}, {"step": "length"}]
    recipe = recipe_for(folder, steps=steps, part_bytes=25_000)
    corpus = build_corpus(recipe, tmp_path / "out")
    found = corpus_texts(corpus)
    expected = run_in_memory([registry.make(o) for o in recipe.data.steps], Docs.of(rows()))
    assert sorted(set(found["train"] + found["valid"])) == sorted(set(expected.kept.texts))
    assert all(text.endswith("!") for text in found["train"])
    carried = next(corpus.documents("web", "train"))
    assert carried.meta["n"] == len(carried.text) - 1
    reasons = Counter(step for _, step, _ in expected.dropped)
    tally = corpus.report["tally"]["reasons"]
    assert {step: sum(n for n, _ in why.values()) for step, why in tally.items() if why} == dict(reasons)


def test_a_part_that_fails_is_named_the_rest_is_built_and_a_rerun_completes_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(folder, part_bytes=9_000)
    whole = corpus_texts(build_corpus(recipe, tmp_path / "whole"))
    work, calls = segment.work, []

    def fail_once(layout: Any, chain: Any, number: int, part: Any) -> Any:
        calls.append(part)
        if len(calls) == 2:
            raise RuntimeError("a cosmic ray")
        return work(layout, chain, number, part)

    monkeypatch.setattr(segment, "work", fail_once)
    with pytest.raises(AthanorError, match="a cosmic ray") as failed:
        build_corpus(recipe, tmp_path / "out")
    assert "run again" in str(failed.value)
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    built = sum(n["documents"] for n in report["sources"]["web"]["out"].values())
    assert 0 < built < sum(map(len, whole.values()))
    assert "a cosmic ray" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    before = len(calls)
    assert corpus_texts(build_corpus(recipe, tmp_path / "out")) == whole
    assert len(calls) == before + 1  # only the part that was missing


def test_a_part_that_fails_after_a_comparison_leaves_a_whole_build_of_the_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [{"step": "exact_dedup"}, {"step": "length", "min_chars": 100}, {"step": "exact_dedup"}]
    recipe = recipe_for(folder, steps=steps, part_bytes=25_000)
    whole = corpus_texts(build_corpus(recipe, tmp_path / "whole"))
    work, failing = segment.work, []

    def fail(layout: Any, chain: Any, number: int, part: Any) -> Any:
        tally = work(layout, chain, number, part)
        if number == 1 and (failing == [part] or not failing and len(segment.load_alive(layout, chain, 1, part).docs)):
            failing[:] = [part]
            layout.state(chain.keys.state(chain.segments[1]), part, ".json").unlink()
            raise RuntimeError("a cosmic ray")
        return tally

    with monkeypatch.context() as patch:
        patch.setattr(segment, "work", fail)
        with pytest.raises(AthanorError, match=": One job failed: segment.*a cosmic ray"):
            build_corpus(recipe, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    built = sum(n["documents"] for n in report["sources"]["web"]["out"].values())
    assert 0 < built < sum(map(len, whole.values()))
    flow = report["tally"]["flows"]["exact_dedup~2"]
    assert sum(entry[2] for entry in flow.values()) == built
    assert corpus_texts(build_corpus(recipe, tmp_path / "out")) == whole


def test_what_steps_read_beside_the_documents_decides_whether_a_build_is_done(folder: Path, tmp_path: Path) -> None:
    sets = tmp_path / "sets"
    write_rows(sets / "a.jsonl", ["a question that stands nowhere else in all of this corpus, not even in parts of it"])
    text = "The kettle on the old stove began to sing while rain ran down both windows and nobody came to pour the tea."
    write_rows(folder / "z.jsonl", [text])
    recipe = recipe_for(folder, steps=[{"step": "decontaminate", "sets": [str(sets)]}])
    build_corpus(recipe, tmp_path / "out")
    (sets / "b.jsonl").write_text(json.dumps({"question": text}) + "\n")
    with pytest.raises(AthanorError, match="another recipe, or its files"):
        build_corpus(recipe, tmp_path / "out")
    found = build_corpus(recipe, tmp_path / "out", replace=True)
    assert list(found.report["tally"]["reasons"]["decontaminate"].values()) == [[1, len(text)]]


def test_a_full_disk_half_way_is_told_and_a_rerun_completes_the_build(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(folder, part_bytes=9_000)
    write, written = segment.write_table, []

    def full(path: Path, table: Any) -> None:
        written.append(path)
        if len(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, table)

    with monkeypatch.context() as patch:
        patch.setattr(segment, "write_table", full)
        with pytest.raises(AthanorError, match="disk is full"):
            build_corpus(recipe, tmp_path / "out")
    found = corpus_texts(build_corpus(recipe, tmp_path / "out"))
    assert found == corpus_texts(build_corpus(recipe, tmp_path / "whole"))


def test_nothing_left_says_what_dropped_it(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AthanorError, match="too short") as error:
        build_corpus(recipe_for(folder, min_chars=100_000), tmp_path / "out")
    assert "empty corpus" in str(error.value)


def test_a_build_can_be_looked_into(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    corpus = build_corpus(recipe_for(folder), out)
    build = browse.Build(out)
    dropped = build.sample("length", "too short", 3, seed=0)
    assert len(dropped) == 3 and all(len(item["text"]) < 120 for item in dropped)
    assert build.sample("length", "too long", 3, seed=0) == []
    assert build.sample(None, None, 3, seed=0, source="web") == build.sample(None, None, 3, seed=0)
    with pytest.raises(AthanorError, match="no step 'lenght'.*\n.*one of: length"):
        build.sample("lenght", None, 3, seed=0)
    with pytest.raises(AthanorError, match="no source 'wbe'"):
        browse.sample_corpus(out, 3, 0, "wbe")
    way = build.journey(dropped[0]["id"])
    assert way.final is None and way.visits[-1].reason == dropped[0]["reason"]
    assert way.visits[-1].measures == {"n_chars": len(way.text)}
    document = next(corpus.documents("web", "train"))
    assert build.journey(document.id).final == document.text == build.journey(document.meta["origin"]).final
    looser = tmp_path / "looser"
    build_corpus(recipe_for(folder, min_chars=60), looser)
    difference = browse.diff(out, looser)["web"]
    assert difference.same[0] == sum(corpus.count("web", split) for split in SPLITS)
    assert difference.only_a[0] == difference.edited[0] == 0 < difference.only_b[0]
    other = tmp_path / "renamed"
    write_rows(other / "z.jsonl", rows()[::-1])
    build_corpus(recipe_for(other), tmp_path / "reversed")
    assert browse.diff(out, tmp_path / "reversed")["web"].same == difference.same
    statistics = browse.describe(out)
    assert sum(row["bytes"] for row in statistics) == difference.same[1]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "too short" in page and "http" not in page.split("<style>")[0]

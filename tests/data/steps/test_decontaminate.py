"""Decontamination: sets of every form, planted items in many disguises, clean documents, the report, cuts."""

from __future__ import annotations

import csv
import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from athanor.data.steps import passages
from athanor.data.steps.base import Docs, run_in_memory
from athanor.data.steps.benchmarks import read_parts, set_files
from athanor.data.steps.contamination import Table
from athanor.data.steps.decontaminate import Decontaminate
from athanor.data.steps.shingles import mixed
from athanor.errors import AthanorError
from athanor.recipe.steps.dedup import DecontaminateOptions

SYLLABLES = ("ka", "lo", "mi", "ter", "san", "vu", "rin", "do", "pel", "gra", "shi", "no")


def problem(i: int) -> str:
    rng = random.Random(i)
    words = ["".join(rng.choices(SYLLABLES, k=2)) for _ in range(40)]
    for place in (3, 11, 17, 30):
        words[place] = str(rng.randrange(2, 900))
    return f"{' '.join(words[:14])}, {' '.join(words[14:25])}. How many {' '.join(words[25:])} are left?"


def chinese(i: int) -> str:
    rng = random.Random(i)
    han = "".join(chr(0x4E00 + rng.randrange(2500)) for _ in range(30))
    return f"某工厂生产{han}零件，共计{rng.randrange(10, 99)}箱，每箱装有若干个，问一共需要多少辆卡车？"


def filler(seed: int, n: int = 80) -> str:
    rng = random.Random(1000 + seed)
    return " ".join(f"w{rng.randrange(3000)}" for _ in range(n))


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Four sets in four formats."""
    root = tmp_path / "sets"
    (root / "math").mkdir(parents=True)
    rows = [{"id": i, "question": problem(i), "answer": f"#### {i}"} for i in range(30)]
    (root / "math" / "test.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    zh = [{"Question": chinese(i), "A": "三辆", "B": "五辆", "Answer": "A"} for i in range(20)]
    raw = "\n".join(json.dumps(row, ensure_ascii=False) for row in zh)
    (root / "zh.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(raw.encode()))
    short = [{"prompt": "Name the deepest lake of the southern island group", "target": "Lake X"}, {"prompt": "Why?"}]
    (root / "short.json").write_text(json.dumps({"version": "1", "examples": short}))
    with (root / "table.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["ctx", "label"], [problem(100), "1"], [problem(101), "0"]])
    pq.write_table(pa.table({"input": [problem(200)], "gold": [3]}), root / "rows.parquet")
    (root / "README.md").write_text("not a set")
    return root


def run(sets: Path, texts: list[str], **options: Any):  # type: ignore[no-untyped-def]
    step = Decontaminate(DecontaminateOptions(sets=(str(sets),), cache=str(sets.parent / "cache"), **options))
    return step, run_in_memory([step], Docs.of(texts, id=[f"d{i}" for i in range(len(texts))]), sets.parent)


def test_every_format_is_read(sets: Path) -> None:
    parts = list(read_parts(set_files([str(sets)])))
    by_set: dict[str, list[str]] = {}
    for part in parts:
        by_set.setdefault(part.set_name, []).append(part.text)
    assert sorted(by_set) == ["math/test", "rows", "short", "table", "zh"]
    assert by_set["table"] == [problem(100), problem(101)] and by_set["rows"] == [problem(200)]
    assert chinese(3) in by_set["zh"] and "Why?" in by_set["short"]


DISGUISES = {
    "as it is": lambda t: t,
    "case and punctuation": lambda t: t.upper().replace(",", " -").replace("?", "!!").replace(" ", "\n"),
    "embedded": lambda t: f"{filler(1)} {t} {filler(2)}",
    "other numbers": lambda t: "".join("7" if c.isdigit() else c for c in t),
    "full-width digits": lambda t: "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in t),
    "Han numerals": lambda t: "".join("〇一二三四五六七八九"[int(c)] if c.isdigit() else c for c in t),
    "half of it": lambda t: t[: len(t) * 6 // 10],
    "in JSON": lambda t: json.dumps({"q": t}, ensure_ascii=False),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_planted_items_are_found(sets: Path, disguise: str) -> None:
    items = [problem(i) for i in range(12)] + [chinese(i) for i in range(8)] + [problem(101), problem(200)]
    _, outcome = run(
        sets, [f"{filler(i)}. {DISGUISES[disguise](item)} {filler(i + 500)}" for i, item in enumerate(items)]
    )
    assert len(outcome.kept) == 0
    assert {reason.split(":")[0] for _, _, reason in outcome.dropped} == {"contaminated"}


def test_reworded_items_are_found_by_the_share_of_short_ngrams(sets: Path) -> None:
    texts = []
    for i in range(12):
        words = problem(i).split()
        for place in range(6, len(words), 12):  # never thirteen words in a row left
            words[place] = "otherwise"
        texts.append(f"{filler(i)} {' '.join(words)} {filler(i + 99)}")
    _, outcome = run(sets, texts)
    assert len(outcome.kept) == 0
    _, without = run(sets, texts, fuzzy=2.0)
    assert len(without.kept) == 12


def test_short_questions_count_as_a_whole(sets: Path) -> None:
    asked = "Name the deepest lake of the southern island group"
    texts = [f"{filler(1)} {asked}! {filler(2)}", f"{filler(3)} {asked[:-6]} {filler(4)}", "Why? Because."]
    step, outcome = run(sets, texts)
    assert outcome.kept.column("id") == ["d1", "d2"]
    assert step.report(None)["sets"]["short"] == {  # type: ignore[arg-type]
        "items": 2, "items_hit": 1, "items_unprotected": 1, "documents": 1, "examples": [asked]
    }  # fmt: skip


def test_clean_documents_stay(sets: Path) -> None:
    rng = random.Random(0)
    words = " ".join(problem(i) for i in range(30)).split()
    han = "".join(chinese(i) for i in range(20))
    texts = [filler(i, 400) for i in range(20)]
    texts += [" ".join(rng.choice(words) for _ in range(400)) for _ in range(20)]  # the same words, mixed up
    texts += ["".join(rng.choice(han) for _ in range(600)) for _ in range(20)]
    texts += [
        "",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
        " ".join(problem(3).split()[:12]),
        "a b c d e f g h i j k l m n o p",
    ]
    _, outcome = run(sets, texts)
    assert not outcome.dropped


def test_the_report_counts_items_and_documents_of_each_set(sets: Path) -> None:
    texts = [problem(1), problem(1) + filler(3), problem(2), chinese(4), filler(9)]
    step, outcome = run(sets, texts)
    report = step.report(None)  # type: ignore[arg-type]
    assert report["documents"] == 4
    told = {name: (s["items"], s["items_hit"], s["documents"]) for name, s in report["sets"].items()}
    assert told == {
        "math/test": (30, 2, 3),
        "zh": (20, 1, 1),
        "short": (2, 0, 0),
        "table": (2, 0, 0),
        "rows": (1, 0, 0),
    }
    assert list(told) == ["math/test", "zh", *sorted(told.keys() - {"math/test", "zh"})]  # those that were hit first
    assert report["sets"]["zh"]["examples"] == [chinese(4)]
    assert outcome.dropped[2][2].startswith("contaminated: math/test item 2 (")


def test_thresholds_are_read_late(sets: Path) -> None:
    part = " ".join(problem(5).split()[:14])  # two 13-grams of about thirty
    text = f"{filler(1)} {part} {filler(2)}"
    assert len(run(sets, [text])[1].kept) == 1
    assert len(run(sets, [text], min_coverage=0)[1].kept) == 0
    assert len(run(sets, [text], min_coverage=0, min_matches=3)[1].kept) == 1
    keys = {
        str(run(sets, [], **o)[0].compute_key()) for o in ({}, {"min_coverage": 0.5}, {"fuzzy": 0.9}, {"action": "cut"})
    }
    assert len(keys) == 1


def test_templates_protect_nothing(tmp_path: Path) -> None:
    root = tmp_path / "sets"
    root.mkdir()
    frame = "Read the following passage with care and then choose the one option that fits best among those given below"
    rows = [{"question": f"{frame}. {problem(i)}"} for i in range(15)]
    (root / "framed.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, outcome = run(root, [f"{filler(1)} {frame} {filler(2)}", f"{frame} {problem(3)}"])
    assert outcome.kept.column("id") == ["d0"]


def test_cut_takes_whole_sentences_and_leaves_the_rest(sets: Path) -> None:
    before, after = f"{filler(1)}.", f"{filler(2)}."
    texts = [f"{before} {problem(7)} {after}", f"{problem(8)} tiny rest.", filler(3)]
    _, outcome = run(sets, texts, action="cut")
    assert outcome.kept.texts == [f"{before} {after}", texts[2]]
    assert outcome.dropped == [
        ("d1", "decontaminate", "little left without passages of evaluation sets: 10 characters")
    ]


def test_results_do_not_depend_on_the_batch(sets: Path) -> None:
    texts = [problem(1) + filler(1), "", chinese(2), filler(2), problem(3)]
    step, _ = run(sets, [])
    whole = step.annotate(Docs.of(texts))
    for i, text in enumerate(texts):
        alone = step.annotate(Docs.of([text]))
        assert all(alone[name][0].as_py() == whole[name][i].as_py() for name in step.fields)


def test_the_index_follows_the_files(sets: Path) -> None:
    key = run(sets, [])[0].compute_key()
    assert run(sets, [])[0].compute_key() == key
    (sets / "new.jsonl").write_text(json.dumps({"q": problem(300)}))
    assert run(sets, [])[0].compute_key() != key
    assert len(run(sets, [problem(300)])[1].kept) == 0


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("x.jsonl", b"{broken"),
        ("x.jsonl.gz", b"no gzip"),
        ("x.parquet", b"PAR1"),
        ("x.jsonl.zst", b"\x28\xb5\x2f\xfd\x00"),
    ],
)
def test_damaged_sets_are_named(tmp_path: Path, name: str, raw: bytes) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(AthanorError, match="cannot be read"):
        list(read_parts(set_files([str(tmp_path)])))


def test_missing_sets_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AthanorError):
            run(path, ["text"])


def test_table_lookup_against_a_dictionary() -> None:
    rng = np.random.default_rng(1)
    hashes = mixed(rng.integers(0, 400, 1000).astype(np.uint64))
    parts = rng.integers(0, 50, 1000)
    table = Table.of(3, hashes, parts)
    queries = mixed(np.arange(800, dtype=np.uint64))
    window, entry = table.find(queries)
    found = sorted((int(queries[w]), int(table.parts[e])) for w, e in zip(window, entry, strict=True))
    assert found == sorted({(int(h), int(p)) for h, p in zip(hashes, parts, strict=True)})


def test_cuts_are_safe() -> None:
    text = "第一句话。第二句很长的话在这里。Third one here. Then $a + b = c$ ends. ```\n"
    raw = text.encode()
    for a in range(0, len(raw), 3):
        for b in range(a, len(raw), 5):
            for outward in (True, False):
                out = passages.cut(text, [(a, b)], outward=outward)
                assert "�" not in out and out.count("$") in (0, 2)
    begin = text.index("二")
    span = (len(text[:begin].encode()), len(text[: begin + 5].encode()))
    assert passages.cut(text, [span], outward=True) == text.replace("第二句很长的话在这里。", "")
    fenced = "Intro text.\n```python\nx = 1\ny = 2\n```\nOutro text here.\n"
    inside = fenced.index("y = 2")
    assert passages.cut(fenced, [(inside, len(fenced))], outward=False) == fenced[: -len("\nOutro text here.\n")]

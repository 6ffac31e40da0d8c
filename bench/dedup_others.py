"""Exact duplicates, repeated passages, decontamination: speed, and what is found of what was planted."""

from __future__ import annotations

import io
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from athanor.data.steps.base import Docs, as_arrays
from bench.dedup_disk import run_on_disk
from bench.dedup_texts import Writer, corpus_part

Row = dict[str, Any]


def exact(quick: bool, shared: Path) -> dict[str, Any]:
    """MB/s a core of each kind, and the documents dropped against a dictionary's count."""
    from athanor.data.steps.exact import ExactDedup
    from athanor.recipe.steps.dedup import ExactDedupOptions

    rng = random.Random(1)
    texts = corpus_part(1, 200 if quick else 6000)
    texts += [rng.choice((str, str.upper))(rng.choice(texts)) for _ in range(len(texts) // 5)]
    docs = Docs.of(texts, url=[f"https://a.com/{rng.randrange(3 * len(texts))}?utm_source=x" for _ in texts])
    folded = len(texts) - len({" ".join(t.casefold().split()) for t in texts})
    urls = len(texts) - len(set(docs.column("url")))
    rows: list[Row] = []
    for by, expected in ((("document",), folded), (("url",), urls), (("paragraph",), None)):
        start = time.process_time()
        passed = run_on_disk(ExactDedup(ExactDedupOptions(by=by)), lambda: [docs])  # type: ignore[arg-type]
        seconds = time.process_time() - start
        dropped = sum(reason is not None for reason in passed.reasons)
        mb = int(docs.n_bytes.sum()) / 1e6
        rows.append({"by": by[0], "MB": mb, "MB/s": mb / seconds, "dropped": dropped, "duplicates planted": expected})
    bars = [
        {"bar": f"exact by {r['by']}: dropped", "value": r["dropped"], "target": f"= {r['duplicates planted']}",
         "met": r["dropped"] == r["duplicates planted"]}
        for r in rows if r["duplicates planted"] is not None
    ]  # fmt: skip
    return {"tables": {"exact duplicates": rows}, "bars": bars}


def substring(quick: bool, shared: Path) -> dict[str, Any]:
    """MB/s a core; tokens found in repeated passages against brute force over all windows of 50 tokens."""
    from athanor.data.steps.substring import SubstringDedup
    from athanor.recipe.steps.dedup import SubstringDedupOptions

    rows: list[Row] = []
    for language in ("en", "zh"):
        texts = _with_passages(language, 60 if quick else 1500)
        docs = Docs.of(texts)
        start = time.process_time()
        passed = run_on_disk(SubstringDedup(SubstringDedupOptions()), lambda d=docs: [d])  # type: ignore[misc]
        seconds = time.process_time() - start
        expected = _repeated_tokens(texts, 50, language)
        mb = int(docs.n_bytes.sum()) / 1e6
        rows.append(
            {
                "language": language, "MB": mb, "MB/s": mb / seconds, "tokens found": passed.report["tokens_repeated"],
                "by brute force": expected, "measures ÷ text": passed.measure_bytes / 1e6 / mb,
            }
        )  # fmt: skip
    bars = [
        {"bar": f"substring, {r['language']}: tokens in repeated passages", "value": r["tokens found"],
         "target": f"= {r['by brute force']} ± 0.1 %", "met": abs(r["tokens found"] / r["by brute force"] - 1) < 1e-3}
        for r in rows
    ]  # fmt: skip
    return {"tables": {"repeated passages of 50 tokens": rows}, "bars": bars}


def _with_passages(language: str, n: int) -> list[str]:
    writer = Writer(language, 5)
    pool = [writer.draw(int(writer.rng.integers(30, 300))) for _ in range(n // 5)]
    out = []
    for _ in range(n):
        parts = [writer.draw(int(writer.rng.integers(50, 400)))]
        if writer.rng.random() < 0.5:
            parts += [pool[int(writer.rng.integers(len(pool)))], writer.draw(100)]
        out.append(writer.render(np.concatenate(parts)))
    return out


def _repeated_tokens(texts: list[str], n: int, language: str) -> int:
    from bench.dedup_minhash import split_en, split_zh

    split = split_en if language == "en" else split_zh
    seen: set[tuple[str, ...]] = set()
    total = 0
    order = sorted(Docs.of(texts).keys, reverse=False)
    by_key = dict(zip(Docs.of(texts).keys, texts, strict=True))
    preferred = sorted((by_key[key] for key in order), key=lambda t: -len(t.encode()))  # stable: then by key
    for text in preferred:
        tokens = split(text)
        last = 0
        for i in range(len(tokens) - n + 1):
            window = tuple(tokens[i : i + n])
            if window in seen:
                total += i + n - max(last, i)
                last = i + n
            seen.add(window)
    return total


def decontaminate(quick: bool, shared: Path) -> dict[str, Any]:
    """Recall on planted items by disguise, documents of a clean corpus that are dropped, MB/s a core."""
    from athanor.data.steps.decontaminate import Decontaminate
    from athanor.recipe.steps.dedup import DecontaminateOptions

    with tempfile.TemporaryDirectory() as scratch:
        real = (shared / "eval").is_dir() and not quick
        sets = shared / "eval" if real else _generated_sets(Path(scratch) / "sets")
        step = Decontaminate(DecontaminateOptions(sets=(str(sets),), cache=f"{scratch}/cache"))
        start = time.process_time()
        step.prepare()
        built = {"sets": len(step.index.sets), "items": len(step.index.item_set), "index built in s": 0.0}
        built["index built in s"] = time.process_time() - start
        planted = [_planted(step, name, change, 40 if quick else 400) for name, change in DISGUISES.items()]
        clean = [_clean(step, name, texts) for name, texts in _corpora(shared if real else None, quick)]
    bars = [
        {"bar": f"decontaminate: share of {r['corpus']} dropped", "value": r["share"], "target": "≤ 0.005",
         "met": r["share"] <= 0.005}
        for r in clean
    ]  # fmt: skip
    bars += [
        {"bar": f"decontaminate: recall, {r['disguise']}", "value": r["recall"], "target": "≥ 0.99",
         "met": r["recall"] >= 0.99}
        for r in planted if r["disguise"] in ("as it is", "case and punctuation", "full-width digits")
    ]  # fmt: skip
    return {"tables": {"index": [built], "planted items": planted, "clean corpora": clean}, "bars": bars}


def _other_words(text: str, every: int) -> str:
    if " " in text.strip():
        words = text.split(" ")
        return " ".join("otherwise" if i % every == every // 2 else word for i, word in enumerate(words))
    return "".join("某" if i % (2 * every) == every else char for i, char in enumerate(text))


DISGUISES: dict[str, Callable[[str], str]] = {
    "as it is": lambda t: t,
    "case and punctuation": lambda t: t.upper().replace(",", " ; ").replace("，", "、").replace(". ", " — "),
    "full-width digits": lambda t: "".join(chr(ord(c) + 0xFEE0) if c in "0123456789" else c for c in t),
    "other numbers": lambda t: "".join("7" if c in "0123456789" else c for c in t),
    "first 60 %": lambda t: t[: len(t) * 6 // 10],
    "every 20th word another": lambda t: _other_words(t, 20),
    "every 12th word another": lambda t: _other_words(t, 12),
    "every 8th word another": lambda t: _other_words(t, 8),
}


def _planted(step: Any, name: str, change: Callable[[str], str], n: int) -> Row:
    """Questions of at least 30 tokens (Han: 40) drawn from all sets, each inside a longer text of its language."""
    from athanor.data.steps.benchmarks import read_parts, set_files
    from athanor.data.steps.shingles import tokens_of

    asked = sorted({p.text for p in read_parts(set_files(step.options.sets)) if p.asks})
    tokens = tokens_of(Docs.of(asked, id=[""] * len(asked)), numbers=True)
    long_enough = [
        t for t, count in zip(asked, tokens.counts, strict=True) if (30 if t[:40].isascii() else 40) <= count
    ]
    chosen = random.Random(3).sample(long_enough, min(n, len(long_enough)))
    writers = {True: Writer("en", 11), False: Writer("zh", 11)}

    def filler(text: str) -> str:
        writer = writers[text[:40].isascii()]
        return writer.render(writer.draw(150))

    texts = [f"{filler(t)}\n{change(t)}\n{filler(t)}" for t in chosen]
    dropped = _dropped(step, texts)[0]
    return {"disguise": name, "items": len(texts), "found": dropped, "recall": dropped / len(texts)}


def _clean(step: Any, name: str, texts: list[str]) -> Row:
    dropped, seconds, by_set = _dropped(step, texts)
    mb = sum(len(t.encode()) for t in texts) / 1e6
    return {
        "corpus": name, "documents": len(texts), "MB": mb, "MB/s": mb / seconds, "dropped": dropped,
        "share": dropped / len(texts), "by set": ", ".join(f"{k} {v}" for k, v in by_set.items()),
    }  # fmt: skip


def _dropped(step: Any, texts: list[str]) -> tuple[int, float, dict[str, int]]:
    """(documents dropped, seconds, documents by set hit)."""
    docs = Docs.of(texts, id=[str(i) for i in range(len(texts))])
    start = time.process_time()
    columns = as_arrays(step.annotate(docs), step.fields)
    seconds = time.process_time() - start
    import pyarrow as pa

    from athanor.data.steps.base import Survey

    survey = Survey(lambda name: pa.chunked_array([columns[name]]), len(docs), [], Path("."))
    columns |= as_arrays(step.resolve(survey), step.resolved)
    reasons = step.apply(docs, columns).reasons
    by_set = {name: told["documents"] for name, told in step.report(survey)["sets"].items() if told["documents"]}
    return sum(r is not None for r in reasons), seconds, by_set


def _generated_sets(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for language in ("en", "zh"):
        writer = Writer(language, 21)
        rows = [{"question": writer.render(writer.draw(60)), "answer": "A"} for _ in range(300)]
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{language}.jsonl").write_text(text, "utf-8")
    return folder


def _corpora(shared: Path | None, quick: bool) -> list[tuple[str, list[str]]]:
    if shared is None:
        return [("generated", corpus_part(77, 100 if quick else 4000, 0.0))]
    out = []
    for file in sorted((shared / "corpus").glob("*.jsonl.zst")):
        import zstandard

        with file.open("rb") as raw, zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(raw) as stream:
            rows = [json.loads(line) for line in io.TextIOWrapper(stream, "utf-8") if line.strip()]
        out.append((file.name.removesuffix(".jsonl.zst"), [row["text"] for row in rows]))
    return out

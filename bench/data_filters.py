"""Cleaning steps against their peers: Gopher's rules (datatrove), language identification (py3langid), repair (ftfy).

    python -m bench.data_filters [--quick] [--megabytes 2] [--rounds 5] [--shared FOLDER] [--out FILE]

Both sides in one process on the same documents, by CPU time, in interleaved rounds; medians. Documents are generated
(Zipf words in English and Chinese, with planted noise); where ``--shared`` (or ``$ATHANOR_SHARED_DATA``) names a folder
with jsonl files in its ``corpus``, theirs stand beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from athanor.data.readers import lines
from athanor.data.steps.base import Docs, Step, as_arrays
from athanor.data.steps.c4 import C4
from athanor.data.steps.chinese import Chinese
from athanor.data.steps.code import Code
from athanor.data.steps.heuristics import FineWeb, Gopher
from athanor.data.steps.irrelevant import Irrelevant
from athanor.data.steps.language import Language
from athanor.data.steps.native import text_counts
from athanor.data.steps.normalise import Normalise
from athanor.data.steps.repetition import Repetition
from athanor.recipe.steps import clean
from bench.common import environment, show

#: What a step is asked to reach: MB/s of one core, or times a peer's.
BARS = {"gopher": 8.0, "gopher, str.split words": 1.5, "agreement": 0.999, "language": 30.0, "whole chain": 5.0}
_STOP = ("the", "be", "to", "of", "and", "that", "have", "with", "is", "was", "for", "on", "as", "it", "not", "this")
_HAN = (
    "的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对小多然于心学"
)


def zipf_english(n_bytes: int, seed: int) -> list[str]:
    """Documents of invented words with English function words among them; a quarter of them with planted noise."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("aeioustnrlmdkpbgfhvw", k=rng.randint(2, 9))) for _ in range(20_000)]
    weights = np.cumsum(1.0 / np.arange(10, 20_010)).tolist()
    documents, size = [], 0
    while size < n_bytes:
        text = _paragraphs(rng, lambda: _english_sentence(rng, words, weights))
        documents.append(_noisy(rng, text))
        size += len(documents[-1])
    return documents


def zipf_chinese(n_bytes: int, seed: int) -> list[str]:
    """The same of Han characters with full-width punctuation."""
    rng = random.Random(seed)
    chars = list(_HAN) + [chr(0x4E00 + 7 * i) for i in range(2500)]
    weights = np.cumsum(1.0 / np.arange(20, 20 + len(chars))).tolist()

    def sentence() -> str:
        picked = rng.choices(chars, cum_weights=weights, k=rng.randint(8, 40))
        return "".join(picked[: len(picked) // 2]) + "，" + "".join(picked[len(picked) // 2 :]) + "。"

    documents, size = [], 0
    while size < n_bytes:
        documents.append(_noisy(rng, _paragraphs(rng, sentence)))
        size += len(documents[-1].encode())
    return documents


def _english_sentence(rng: random.Random, words: Sequence[str], weights: Any) -> str:
    picked = rng.choices(words, cum_weights=weights, k=rng.randint(6, 24))
    picked = [rng.choice(_STOP) if rng.random() < 0.4 else word for word in picked]
    return " ".join(picked).capitalize() + rng.choice([". ", ". ", "? ", ", and so on. "])


def _paragraphs(rng: random.Random, sentence: Callable[[], str]) -> str:
    parts = ["".join(sentence() for _ in range(rng.randint(2, 8))).strip() for _ in range(rng.randint(1, 12))]
    return rng.choice(["\n\n", "\n"]).join(parts)


def _noisy(rng: random.Random, text: str) -> str:
    kind = rng.random()
    pieces = text.split("\n")
    if kind < 0.05:
        return "\n".join(f"- {piece[:20]}" for piece in pieces * 3)
    if kind < 0.10:
        return "\n".join(piece[:60] + "..." for piece in pieces)
    if kind < 0.15:
        return text + "\n\n" + "\n\n".join([pieces[0]] * 6)
    if kind < 0.20:
        return text[:150]
    if kind < 0.25:
        return " ".join(f"#{piece[:12]} 123 456 --" for piece in pieces * 2)
    return text


def corpus(folder: Path, n_bytes: int) -> dict[str, list[str]]:
    """Documents of the jsonl files of a folder (field ``text``), cut at 20,000 characters, ``n_bytes`` of each file."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.jsonl*")):
        rows = (json.loads(line) for line in lines(path) if line and line.strip())
        texts: list[str] = []
        size = 0
        for row in rows:
            text = row.get("text", "")
            for piece in (text[at : at + 20_000] for at in range(0, min(len(text), 200_000), 20_000)):
                texts.append(piece)
                size += len(piece.encode())
            if size >= n_bytes:
                break
        found[path.name.split(".")[0]] = texts
    return found


def cpu_seconds(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU time of each call, taken in turn ``rounds`` times after one call that is not counted."""
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def work(step: Step, docs: Docs) -> list[str | None]:
    """All that a step does to a batch; its reasons."""
    fresh = Docs(docs.table)  # no caches of an earlier call
    verdict = step.apply(fresh, as_arrays(step.annotate(fresh), step.fields))
    return list(verdict.reasons)


def megabytes_per_s(steps: Iterable[Step], docs: Docs, rounds: int) -> dict[str, float]:
    """MB/s of each step by itself on these documents, and of all of them one after the other (``whole chain``)."""
    size = float(docs.n_bytes.sum()) / 1e6
    named = {step.name: step for step in steps}
    for step in named.values():
        step.prepare()
    taken = cpu_seconds({name: partial(work, step, docs) for name, step in named.items()}, rounds)
    return {**{name: size / s for name, s in taken.items()}, "whole chain": size / sum(taken.values())}


def all_steps() -> list[Step]:
    """Every cleaning step with its defaults."""
    return [
        Normalise(clean.NormaliseOptions()),
        Language(clean.LanguageOptions()),
        Gopher(clean.GopherOptions(skip_domains=())),
        FineWeb(clean.FineWebOptions()),
        Repetition(clean.RepetitionOptions()),
        Chinese(clean.ChineseOptions()),
        C4(clean.C4Options()),
        Irrelevant(clean.IrrelevantOptions()),
        Code(clean.CodeOptions()),
    ]


# -- Gopher's rules ----------------------------------------------------------------------------------------------------


def _datatrove() -> tuple[Any, Any, Any] | None:
    """(Document, quality filter, repetition filter) with datatrove's defaults, or None where it is not installed."""
    try:
        from datatrove.data import Document
        from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    except ImportError:
        return None
    return Document, GopherQualityFilter(), GopherRepetitionFilter()


def _set_words(split: Callable[..., list[str]] | None) -> None:
    """datatrove's word splitting: its own, or another."""
    from datatrove.pipeline.filters import gopher_quality_filter, gopher_repetition_filter
    from datatrove.utils import text

    for module in (gopher_quality_filter, gopher_repetition_filter):
        module.split_into_words = split or text.split_into_words


def gopher(texts: list[str], rounds: int) -> dict[str, Any]:
    """Both Gopher filters on English documents: MB/s of each contender, agreement of decisions with equal words."""
    docs = Docs.of(texts, language="en")
    steps = [Gopher(clean.GopherOptions()), Repetition(clean.RepetitionOptions())]
    size = float(docs.n_bytes.sum()) / 1e6
    calls: dict[str, Callable[[], Any]] = {"athanor": lambda: [work(step, docs) for step in steps]}
    peer = _datatrove()
    if peer is None:
        return {"missing": "datatrove", "athanor_mb_s": size / cpu_seconds(calls, rounds)["athanor"]}
    document, *filters = peer

    def decide() -> list[list[bool]]:
        found = [document(text=text, id=str(i)) for i, text in enumerate(texts)]
        return [[each.filter(doc) is True for doc in found] for each in filters]

    def with_words(split: Callable[..., list[str]] | None) -> Callable[[], list[list[bool]]]:
        def call() -> list[list[bool]]:
            _set_words(split)
            return decide()

        return call

    plain = with_words(lambda text, language=None: text.split())
    calls["datatrove, str.split"] = plain
    try:
        import spacy  # noqa: F401 - what datatrove splits words with by default

        calls["datatrove"] = with_words(None)
    except ImportError:
        pass
    taken = cpu_seconds(calls, rounds)
    ours = [[reason is None for reason in work(step, docs)] for step in steps]
    theirs = plain()
    pairs = [(a, b) for mine, other in zip(ours, theirs, strict=True) for a, b in zip(mine, other, strict=True)]
    return {
        "documents": len(texts),
        "megabytes": size,
        **{f"{name}_mb_s": size / s for name, s in taken.items()},
        "agreement": sum(a == b for a, b in pairs) / len(pairs),
        "dropped": sum(not b for _, b in pairs) / len(pairs),
    }


# -- language and repair -----------------------------------------------------------------------------------------------


def language(texts: list[str], expected: str | None, rounds: int) -> dict[str, Any]:
    """MB/s and, where the language is known, the share told right: this step, and py3langid on whole texts."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    docs, model = Docs.of(texts), LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    step = Language(clean.LanguageOptions())
    step.prepare()
    size = float(docs.n_bytes.sum()) / 1e6
    taken = cpu_seconds(
        {"athanor": lambda: work(step, docs), "py3langid": lambda: [model.classify(text) for text in texts]}, rounds
    )
    ours = step.apply(docs, step.annotate(docs)).columns["language"]
    theirs = [model.classify(text)[0] for text in texts]
    row: dict[str, Any] = {f"{name}_mb_s": size / s for name, s in taken.items()}
    if expected is not None:
        row |= {
            "athanor_right": ours.count(expected) / len(ours),
            "py3langid_right": theirs.count(expected) / len(ours),
        }
    return row


def repair(texts: list[str], rounds: int) -> dict[str, Any]:
    """MB/s of normalisation, of ftfy's repair of encodings alone and of all of ftfy; documents that each changes."""
    import ftfy

    docs, step = Docs.of(texts), Normalise(clean.NormaliseOptions())
    size = float(docs.n_bytes.sum()) / 1e6
    calls: dict[str, Callable[[], Any]] = {
        "athanor": lambda: work(step, docs),
        "ftfy.fix_encoding": lambda: [ftfy.fix_encoding(text) for text in texts],
        "ftfy.fix_text": lambda: [ftfy.fix_text(text) for text in texts],
    }
    taken = cpu_seconds(calls, rounds)
    return {
        **{f"{name}_mb_s": size / s for name, s in taken.items()},
        "athanor_changed": sum(text is not None for text in step.annotate(docs)["text"]) / len(texts),
        "ftfy.fix_text_changed": sum(ftfy.fix_text(text) != text for text in texts) / len(texts),
    }


# -- the table ---------------------------------------------------------------------------------------------------------


def measure(sets: dict[str, list[str]], rounds: int) -> dict[str, Any]:
    """All tables; ``sets`` holds documents by name, ``english`` and ``chinese`` among them."""
    english = {name: texts for name, texts in sets.items() if name in ("english", "c4_demo", "en_novels")}
    told = {"english": "en", "chinese": "zh", "c4_demo": "en", "en_novels": "en", "zh_classical_prose": "zh"}
    return {
        "gopher": {name: gopher(texts, rounds) for name, texts in english.items()},
        "language": {name: language(texts, told.get(name), rounds) for name, texts in sets.items()},
        "repair": {name: repair(texts, rounds) for name, texts in sets.items()},
        "steps": {name: megabytes_per_s(all_steps(), _as_code(name, texts), rounds) for name, texts in sets.items()},
        "compiled": text_counts() is not None,
        "environment": environment(1),
    }


def _as_code(name: str, texts: list[str]) -> Docs:
    return Docs.of(texts, domain="code" if "code" in name else "general")


def judge(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Every bar that was measured: the slowest set counts."""
    found: list[dict[str, Any]] = []

    def bar(name: str, values: list[float]) -> None:
        if values:
            found.append({"bar": name, "target": BARS[name], "value": min(values), "met": min(values) >= BARS[name]})

    rows = [row for row in result["gopher"].values() if "missing" not in row]
    bar("gopher", [row["athanor_mb_s"] / row["datatrove_mb_s"] for row in rows if "datatrove_mb_s" in row])
    bar("gopher, str.split words", [row["athanor_mb_s"] / row["datatrove, str.split_mb_s"] for row in rows])
    bar("agreement", [row["agreement"] for row in rows])
    bar("language", [row["athanor_mb_s"] for row in result["language"].values()])
    bar("whole chain", [row["whole chain"] for row in result["steps"].values()])
    return found


def report(result: dict[str, Any]) -> None:
    """Prints the tables."""
    for title, unit in (
        ("gopher", "rules"),
        ("language", "identification"),
        ("repair", "normalisation"),
        ("steps", ""),
    ):
        rows = result[title]
        columns = list(dict.fromkeys(key for row in rows.values() for key in row))
        show(
            f"{title} {unit}".strip(),
            ["documents", *columns],
            [[n, *(r.get(c) for c in columns)] for n, r in rows.items()],
        )
    show(
        "bars",
        ["bar", "value", "target", "holds"],
        [list(map(row.get, ("bar", "value", "target", "met"))) for row in result["bars"]],
    )


def main() -> int:
    """Measure, print, write; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of a megabyte, one round")
    parser.add_argument("--megabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("ATHANOR_SHARED_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    n_bytes, rounds = (100_000, 1) if args.quick else (int(args.megabytes * 1e6), args.rounds)
    sets = {"english": zipf_english(n_bytes, 0), "chinese": zipf_chinese(n_bytes, 0)}
    sets |= corpus(args.shared / "corpus", n_bytes)
    result = measure(sets, rounds)
    result["bars"] = judge(result)
    report(result)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0 if all(row["met"] for row in result["bars"]) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Vocabularies for several domains, and tokenising: bytes a token against a BPE of the natural mixture, MB/s.

    python bench/data_tokenizer.py [--quick] [--shared FOLDER] [--sizes 32768 153376] [--out FILE.json]

Vocabulary. Five domains of text; a tenth of the documents (by hash) is held out, and bytes a token are measured there.
A *mixture* says which share of the natural text each domain is: 90 % one domain, the others as a crawl of the web has
them, or in equal parts. Counts of the pieces are weighted to these shares, so that every domain has text enough to
learn from and only the shares are skewed. The baseline is plain BPE on the natural mixture: the trainer's output is
that of the ``tokenizers`` library (tests/tokenizer/test_methods.py), none of our tokens left out.

With ``--shared``: English (novels, web, encyclopedia), Chinese (technical documents, instructions), Python, LaTeX
mathematics and classical Chinese of that folder; evaluation sets among them are measured with and go nowhere. Without
it: the standard library's prose and code, worked arithmetic and generated Chinese, at smaller sizes.

Tokenising. One thread, processor time, the contenders in turn on the same held-out texts, median of rounds; ``cold`` is
a new encoder with an empty cache. Ids are compared on all of the text.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import io
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"  # read when `tokenizers` starts: one core for each contender

import numpy as np

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from athanor.tokenizer import Tokenizer
from athanor.tokenizer.bpe import Rules, learn
from athanor.tokenizer.classes import classes
from athanor.tokenizer.counts import PieceCounts, count_pieces
from athanor.tokenizer.fast import BYTE_OF, FastEncoder
from athanor.tokenizer.measure import harmonic_mean
from athanor.tokenizer.methods import Settings, build, train_domains, unreachable, weighted_scores
from athanor.tokenizer.pattern import Digits, pattern
from bench.common import environment, show

Texts = dict[str, list[str]]
Row = dict[str, Any]
#: Shares of the natural text, in %. The tail of the first two is roughly that of web text; of the third it is even.
MIXTURES: dict[str, dict[str, float]] = {
    "English 90 %": {"english": 90, "chinese": 6, "code": 3, "mathematics": 0.7, "classical": 0.3},
    "Chinese 90 %": {"english": 6, "chinese": 90, "code": 3, "mathematics": 0.7, "classical": 0.3},
    "English 90 %, even tail": {"english": 90, "chinese": 2.5, "code": 2.5, "mathematics": 2.5, "classical": 2.5},
}
DIGITS: Digits = "single/end"  # as `athanor tokenizer train` has it
METHODS = ("union", "balanced", "parity")
MEAN_AT_32K, LARGE_LOSS, SPEED, TOLERANCE = 1.10, 0.03, 10.0, 0.002
_JSONL = {
    "english": ("corpus/en_novels.jsonl.zst", "corpus/c4_demo.jsonl.zst"),
    "chinese": (
        "corpus/zh_tech_docs.jsonl.zst",
        "sft/alpaca_zh_machine_translated.jsonl.zst",
        "sft/alpaca_zh_demo.jsonl.zst",
    ),
    "code": ("corpus/code_python.jsonl.zst",),
    "mathematics": (
        "corpus/arxiv_sample_llmfoundry.jsonl.zst",
        "eval/math/MATH_test_5000.json.zst",
        "eval/math/college_math_test.jsonl.zst",
    ),
    "classical": ("corpus/zh_classical_poetry.jsonl.zst", "corpus/zh_classical_prose.jsonl.zst"),
}


def shared_texts(folder: Path, limit: int | None = None) -> Texts:
    """The five domains of the shared folder; long documents in parts of 20,000 characters."""
    import zstandard

    out: Texts = {domain: [] for domain in _JSONL}
    for domain, files in _JSONL.items():
        for name in files:
            with open(folder / name, "rb") as raw:
                for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8"):
                    out[domain] += _parts(_text(json.loads(line)))
                    if limit and len(out[domain]) >= limit:
                        break
    return out


def _text(row: Mapping[str, Any]) -> str:
    text = row.get("text")
    if isinstance(text, list):
        return "\n".join(text)
    return text if isinstance(text, str) else "\n".join(value for value in row.values() if isinstance(value, str))


def _parts(text: str) -> Iterator[str]:
    for at in range(0, len(text), 20_000):
        yield text[at : at + 20_000]


def generated_texts(scale: int) -> Texts:
    """Without the shared folder: what the installed Python has, arithmetic, and pseudo-words of Chinese characters."""
    from athanor.data import arithmetic
    from athanor.data.stdlib_corpus import stdlib_documents
    from athanor.data.types import Document

    out: Texts = {domain: [] for domain in _JSONL}
    for part, domain in (("prose", "english"), ("code", "code")):
        for item in stdlib_documents(part):  # type: ignore[arg-type]
            if isinstance(item, Document) and len(out[domain]) < 60 * scale:
                out[domain] += _parts(item.text)
    out["mathematics"] = [document.text for document in arithmetic.documents(400 * scale, 0)]
    rng = random.Random(0)
    for domain, longest in (("chinese", 4), ("classical", 2)):
        characters = [chr(0x4E00 + rng.randrange(3000)) for _ in range(1500)]
        lexicon = ["".join(rng.choices(characters, k=rng.randint(1, longest))) for _ in range(20_000)]
        weights = [1 / (rank + 2) for rank in range(len(lexicon))]
        for _ in range(100 * scale):
            out[domain].append("，".join("".join(rng.choices(lexicon, weights, k=6)) for _ in range(50)) + "。\n")
    return out


def split(texts: Texts) -> tuple[Texts, Texts]:
    """(training, held out): a tenth, by hash."""
    held = {d: [t for t in some if hashlib.sha256(t.encode()).digest()[0] < 26] for d, some in texts.items()}
    train = {d: [t for t in some if hashlib.sha256(t.encode()).digest()[0] >= 26] for d, some in texts.items()}
    return train, held


def baseline(pieces: PieceCounts, settings: Settings, natural: Mapping[str, int]) -> Tokenizer:
    """Plain BPE on the natural mixture, nothing left out."""
    rules = Rules(settings.n_merges, settings.min_frequency, alone=False, first_specials=len(settings.specials))
    learned = learn(pieces, rules, weighted_scores(pieces, natural))
    if len(learned) < settings.n_merges:
        raise SystemExit(f"the text is enough for {len(learned)} merges; {settings.n_merges} are needed: --quick")
    return build(learned, settings.specials, pieces.digits)


def bytes_per_token(tokenizer: Tokenizer, held: Texts) -> dict[str, float]:
    """On held-out text, by domain."""
    out = {}
    for domain, texts in held.items():
        n_tokens = sum(len(ids) for ids in tokenizer.encode_batch_to_arrays(texts, threads=1))
        out[domain] = sum(len(text.encode()) for text in texts) / n_tokens
    return out


def vocabularies(pieces: PieceCounts, held: Texts, sizes: tuple[int, ...], mixtures: list[str]) -> list[Row]:
    """Every size on every mixture against the baseline: all methods on the first mixture, the default on the others."""
    rows: list[Row] = []
    for mixture in mixtures:
        natural = {domain: int(share * 1e7) for domain, share in MIXTURES[mixture].items()}
        dominant = max(natural, key=natural.__getitem__)
        for size in sizes:
            base = bytes_per_token(baseline(pieces, Settings(size, "natural"), natural), held)
            for method in METHODS if mixture == mixtures[0] else METHODS[:1]:
                start = time.process_time()
                tokenizer = train_domains(pieces, Settings(size, method), natural)  # type: ignore[arg-type]
                cpu_s = time.process_time() - start
                figures = bytes_per_token(tokenizer, held)
                ratios = {domain: figures[domain] / base[domain] for domain in figures}
                rows.append(
                    {
                        "mixture": mixture,
                        "vocab_size": size,
                        "method": method,
                        "tokens": tokenizer.vocab_size,
                        "unreachable": len(unreachable(tokenizer)),
                        "bytes_per_token": figures,
                        "natural_bytes_per_token": base,
                        "ratios": ratios,
                        "mean_ratio": harmonic_mean([*figures.values()]) / harmonic_mean([*base.values()]),
                        "dominant_loss": 1 - ratios[dominant],
                        "worst_other": min(ratio for domain, ratio in ratios.items() if domain != dominant),
                        "classes": classes(tokenizer),
                        "cpu_s": cpu_s,
                    }
                )
                gc.collect()
    return rows


def tiktoken_of(tokenizer: Tokenizer) -> Any:
    """The same merges as tiktoken's ranks; None where it is not installed."""
    try:
        import tiktoken
    except ImportError:
        return None
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=False)
    ranks = {bytes(BYTE_OF[c] for c in token): i for token, i in vocabulary.items() if i not in tokenizer.special_ids}
    return tiktoken.Encoding("bench", pat_str=pattern(DIGITS), mergeable_ranks=ranks, special_tokens={})


def speed(tokenizer: Tokenizer, held: Texts, rounds: int) -> list[Row]:
    """MB/s of each contender by domain, and whether all ids are equal."""
    backend, other = tokenizer.backend, tiktoken_of(tokenizer)
    warm = FastEncoder.of(tokenizer.backend)
    if warm is None:
        raise SystemExit("no C++ compiler here: encoding is that of `tokenizers`, nothing to compare")

    def cold(texts: list[str]) -> Any:
        fresh = FastEncoder.of(backend)
        assert fresh is not None
        return lambda: fresh.encode_many([text.encode() for text in texts], 1)

    contenders: dict[str, Callable[[list[str]], Callable[[], Any]]] = {
        "athanor, cold": cold,
        "athanor": lambda texts: lambda: warm.encode_many([text.encode() for text in texts], 1),
        "athanor, lists": lambda texts: (
            lambda: [ids.tolist() for ids in warm.encode_many([text.encode() for text in texts], 1)]
        ),
        "tokenizers": lambda texts: lambda: backend.encode_batch_fast(texts, add_special_tokens=False),
    }
    if other is not None:
        contenders["tiktoken"] = lambda texts: lambda: other.encode_ordinary_batch(texts, num_threads=1)
    rows: list[Row] = []
    for domain, texts in [*held.items(), ("all", [text for some in held.values() for text in some])]:
        n_bytes = sum(len(text.encode()) for text in texts)
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, make in contenders.items():
                call = make(texts)
                start = time.process_time()
                call()
                times[name].append(time.process_time() - start)
        theirs = [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
        ours = warm.encode_many([text.encode() for text in texts], 1)
        row: Row = {name: n_bytes / statistics.median(some) / 1e6 for name, some in times.items()}
        row |= {"domain": domain, "MB": n_bytes / 1e6, "texts": len(texts)}
        row["equal"] = all(np.array_equal(a, np.array(b)) for a, b in zip(ours, theirs, strict=True))
        if other is not None:
            row["tiktoken_equal"] = other.encode_ordinary_batch(texts, num_threads=1) == theirs
        rows.append(row)
    return rows


def judge(result: Mapping[str, Any]) -> list[Row]:
    """The bars that the result has figures for; those of the default method, ``union``, are the project's."""
    bars: list[Row] = []

    def bar(name: str, value: float | int | bool, target: str, met: bool) -> None:
        bars.append({"bar": name, "value": value, "target": target, "met": bool(met)})

    for row in result["vocabularies"]:
        name = f"{row['method']}, {row['vocab_size']:,}, {row['mixture']}"
        bar(f"{name}: tokens", row["tokens"], f"{row['vocab_size']}", row["tokens"] == row["vocab_size"])
        bar(f"{name}: unreachable", row["unreachable"], "0", row["unreachable"] == 0)
        if row["method"] != "union":
            continue
        bar(f"{name}: worst other domain", row["worst_other"], "≥ 1 (± 0.002)", row["worst_other"] >= 1 - TOLERANCE)
        if row["vocab_size"] == 32_768:
            bar(f"{name}: harmonic mean", row["mean_ratio"], f"≥ {MEAN_AT_32K}", row["mean_ratio"] >= MEAN_AT_32K)
        if row["vocab_size"] == 153_376:
            met = row["dominant_loss"] <= LARGE_LOSS
            bar(f"{name}: loss of the dominant domain", row["dominant_loss"], f"≤ {LARGE_LOSS}", met)
    for row in result["speed"]:
        slowest = min(row["athanor, cold"], row["athanor, lists"])
        bar(f"MB/s, {row['domain']}", slowest, f"≥ {SPEED:.0f}", slowest >= SPEED)
        bar(f"ids equal, {row['domain']}", row["equal"], "True", row["equal"])
    return bars


def report(result: Mapping[str, Any]) -> None:
    """Print the tables."""
    domains = list(_JSONL)
    lines = [
        [
            f"{row['vocab_size']:,} {row['mixture']}",
            row["method"],
            *(f"{row['bytes_per_token'][d]:.3f} ({row['ratios'][d]:.3f})" for d in domains),
            f"{row['mean_ratio']:.3f}",
            f"{row['dominant_loss']:.1%}",
            f"{row['cpu_s']:.0f}",
        ]
        for row in result["vocabularies"]
    ]
    columns = ["size, natural mixture", "method", *domains, "mean", "loss", "CPU s"]
    show("Held-out bytes/token (relative to BPE on the natural mixture)", columns, lines)
    names = [name for name in result["speed"][0] if name.startswith(("athanor", "tokenizers")) or name == "tiktoken"]
    table = [[row["domain"], row["MB"], *(row[name] for name in names), row["equal"]] for row in result["speed"]]
    show("MB/s of one core", ["text", "MB", *names, "ids equal"], table)
    show(
        "Bars",
        ["bar", "value", "target", "met"],
        [[b["bar"], b["value"], b["target"], b["met"]] for b in result["bars"]],
    )


def measure(texts: Texts, sizes: tuple[int, ...], mixtures: list[str], rounds: int) -> dict[str, Any]:
    """All figures."""
    train, held = split(texts)
    documents = ((domain, text) for domain, some in train.items() for text in some)
    pieces = count_pieces(documents, DIGITS, domains=list(train))
    sample = {domain: some[:2000] for domain, some in held.items()}
    first = {d: int(share * 1e7) for d, share in MIXTURES[mixtures[0]].items()}
    result: dict[str, Any] = {
        "environment": environment(1),
        "MB": {
            name: {domain: sum(len(t.encode()) for t in some) / 1e6 for domain, some in part.items()}
            for name, part in (("train", train), ("held out", held))
        },
        "speed": speed(train_domains(pieces, Settings(sizes[0], "balanced"), first), sample, rounds),
        "vocabularies": vocabularies(pieces, held, sizes, mixtures),
    }
    return {**result, "bars": judge(result)}


def main() -> int:
    """Print the tables; 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small vocabularies, one mixture")
    parser.add_argument("--shared", type=Path, default=os.environ.get("ATHANOR_SHARED_DATA"))
    parser.add_argument("--sizes", type=int, nargs="+", help="of the vocabularies, specials included")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    shared = Path(args.shared) if args.shared else None
    if shared is not None:
        texts = shared_texts(shared, 60 if args.quick else None)
    else:
        print("no --shared folder: generated text, 8,192 tokens")
        texts = generated_texts(1 if args.quick else 10)
    sizes = (1000,) if args.quick else (32_768, 153_376) if shared is not None else (8_192,)
    sizes = tuple(args.sizes or sizes)
    mixtures = list(MIXTURES)[: 1 if args.quick else None]
    result = measure(texts, sizes, mixtures, 1 if args.quick else 5)
    report(result)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if all(bar["met"] for bar in result["bars"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())

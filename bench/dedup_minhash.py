"""MinHash: Athanor and datatrove on the same planted duplicates (see bench/data_dedup.py)."""

from __future__ import annotations

import re
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.dedup_disk import run_on_disk
from bench.dedup_texts import brute_force, planted, shingle_sets

Row = dict[str, Any]
#: A pair counts as a duplicate from this similarity on; the curve of 14 × 8 bands is steepest at (1/14)^(1/8) = 0.72.
THRESHOLD = 0.7
BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.01)


def measure(quick: bool, shared: Path) -> dict[str, Any]:
    """Tables and bars of speed, recall and precision in both languages."""
    rows: list[Row] = []
    for language in ("en", "zh"):
        # Chinese texts are of the length in characters that the English ones have in words, times two
        words = 400 if language == "en" else 800
        n_pairs, n_single, seeds = (40, 40, [1]) if quick else (600, 600, [1, 2, 3])
        rows += _language(language, n_pairs, n_single, words, seeds)
    return {"tables": {"MinHash 14×8, 5-grams": rows}, "bars": _bars(rows)}


def _language(language: str, n_pairs: int, n_single: int, words: int, seeds: list[int]) -> list[Row]:
    sides: dict[str, Callable[[list[str], int], list[int]]] = {
        "athanor": _athanor(),
        "athanor, bands alone": _athanor(groupings=1, min_jaccard=0.0),
        "datatrove": _datatrove(language, None),
    }
    if language == "en":
        sides["datatrove, str.split"] = _datatrove(language, "split")
    else:  # Chinese has no spaces to split at
        sides["datatrove, characters"] = _datatrove(language, "characters")
    warm = planted(language, 2, 2, 99)
    for side in sides.values():
        side(warm, 1)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in sides}
    similar: list[np.ndarray[Any, Any]] = []
    n_found: dict[str, int] = dict.fromkeys(sides, 0)
    n_bytes = 0
    for seed in seeds:  # rounds: other texts and other hash functions each time
        texts = planted(language, n_pairs, n_single, seed, words)
        n_bytes += sum(len(t.encode()) for t in texts)
        truth = brute_force(shingle_sets(texts, split_en if language == "en" else split_zh), 0.3)
        similar.append(np.array(list(truth.values())))
        for name, side in sides.items():
            start = time.process_time()
            labels = side(texts, seed)
            seconds[name].append(time.process_time() - start)
            pairs = _pairs(labels)
            n_found[name] += len(pairs)
            found[name].append(np.array([pair in pairs for pair in truth]))
    jaccard = np.concatenate(similar)
    mean_bytes = n_bytes / len(seeds)
    return [
        {
            "language": language,
            "side": name,
            "mb_per_s": mean_bytes / 1e6 / statistics.median(seconds[name]),
            "recall": float(np.concatenate(found[name])[jaccard >= THRESHOLD].mean()),
            "precision": float((np.concatenate(found[name]) & (jaccard >= THRESHOLD)).sum() / max(n_found[name], 1)),
            **{
                f"J {low:.1f}": float(np.concatenate(found[name])[(jaccard >= low) & (jaccard < high)].mean())
                for low, high in zip(BINS, BINS[1:], strict=False)
            },
        }
        for name in sides
    ]


def split_en(text: str) -> list[str]:
    """Words, by the standard library."""
    return re.findall(r"\w+", text.lower())


def split_zh(text: str) -> list[str]:
    """Characters."""
    return [char for char in text if char.isalpha()]


def _pairs(labels: list[int]) -> set[tuple[int, int]]:
    groups: dict[int, list[int]] = {}
    for i, label in enumerate(labels):
        groups.setdefault(label, []).append(i)
    return {(a, b) for group in groups.values() for x, a in enumerate(group) for b in group[x + 1 :]}


def _athanor(**options: Any) -> Callable[[list[str], int], list[int]]:
    from athanor.data.steps.base import Docs
    from athanor.data.steps.minhash import MinhashDedup
    from athanor.recipe.steps.dedup import MinhashOptions

    def run(texts: list[str], seed: int) -> list[int]:
        docs = Docs.of(texts)
        step = MinhashDedup(MinhashOptions(seed=seed, **options))
        passed = run_on_disk(step, lambda: [docs])
        number = {key[:16]: i for i, key in enumerate(docs.keys)}
        kept = [None if r is None else r.removeprefix("near duplicate: ")[:16] for r in passed.reasons]
        return [i if key is None else number[key] for i, key in enumerate(kept)]

    return run


class _Words:
    """A word tokenizer for datatrove that only cuts."""

    def __init__(self, cut: Callable[[str], list[str]]) -> None:
        self.word_tokenize = cut


def _datatrove(language: str, words: str | None) -> Callable[[list[str], int], list[int]]:
    import xxhash
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup import MinhashDedupSignature as Signature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from loguru import logger

    logger.disable("datatrove")
    code = {"en": "eng", "zh": "cmn_Hani"}[language]

    def run(texts: list[str], seed: int) -> list[int]:
        with tempfile.TemporaryDirectory() as scratch:
            config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, seed=seed)
            signature = Signature(f"{scratch}/sig", config, language=code)
            # xxhash 4 takes bytes alone, datatrove 0.10 hands it text: the same function on the same bytes
            signature._hash_func = lambda gram: xxhash.xxh64_intdigest(gram.encode())
            if words is not None:
                signature.word_tokenizer = _Words(str.split if words == "split" else split_zh)
            documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
            signature.run(iter(documents), 0, 1)
            for bucket in range(14):
                MinhashDedupBuckets(f"{scratch}/sig", f"{scratch}/buckets", config=config).run(None, bucket, 14)
            MinhashDedupCluster(f"{scratch}/buckets", f"{scratch}/remove", config, save_cluster_id=True).run(None, 0, 1)
            list(MinhashDedupFilter(f"{scratch}/remove").run(iter(documents), 0, 1))
            labels = list(range(len(texts)))
            file = Path(f"{scratch}/remove/000000.clusters")  # none where no pair was found
            for doc, cluster in struct.iter_unpack("<2I", file.read_bytes() if file.exists() else b""):
                labels[doc] = -1 - cluster
            return labels

    return run


def _bars(rows: list[Row]) -> list[Row]:
    bars: list[Row] = []
    by = {(row["language"], row["side"]): row for row in rows}

    def line(bar: str, value: float, target: float) -> None:
        bars.append({"bar": bar, "value": value, "target": f"≥ {target:.4g}", "met": value >= target})

    for language in ("en", "zh"):
        ours = by[language, "athanor"]
        for peer, factor in (("datatrove", 20.0), ("datatrove, str.split", 3.0)):
            if (language, peer) not in by:
                continue
            theirs = by[language, peer]
            line(f"{language}: MB/s ÷ {peer}", ours["mb_per_s"] / theirs["mb_per_s"], factor)
        # datatrove's default for Chinese cuts words (jieba): its pairs are of other n-grams, no match for this truth
        peers = ("datatrove, characters",) if language == "zh" else ("datatrove", "datatrove, str.split")
        for peer in peers:
            for figure in ("recall", "precision"):
                line(
                    f"{language}: {figure} at J ≥ {THRESHOLD} against {peer}", ours[figure], by[language, peer][figure]
                )
    return bars

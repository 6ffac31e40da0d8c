"""The whole path of curation against datatrove's: read → normalise → language → Gopher's filters → MinHash → write.

    python bench/data_path.py [--quick] [--megabytes 4] [--rounds 3] [--shared FOLDER] [--out FILE]

Both sides read the same jsonl file of English documents (generated with planted noise and near duplicates; with
``--shared`` the English web pages and novels' chapters of that folder beside them) and write jsonl. One process each
side, CPU time, interleaved rounds, medians. datatrove runs twice: with its default words (spaCy's tokenizer) and with
``str.split``; it has no language model without a download, so py3langid stands in its place.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from athanor.data.build import CorpusDir, build_corpus
from athanor.recipe.schema import Recipe
from bench.common import environment, show
from bench.data_filters import zipf_english
from bench.dedup_texts import Writer

TARGET, TARGET_SPLIT = 8.0, 1.5
STEPS = ("normalise", "language", "gopher", "repetition", "minhash")


def documents(n_bytes: int, shared: Path | None) -> list[str]:
    """English documents; one in ten comes again with some words changed."""
    texts = zipf_english(n_bytes // 2, 11)
    texts += list(_real(shared, n_bytes // 2)) if shared is not None else zipf_english(n_bytes // 2, 12)
    writer = Writer("en", 3)
    for text in texts[::10]:
        words = np.array(text.split(" "), dtype=object)
        places = writer.rng.random(len(words)) < 0.005
        words[places] = "otherwise"
        texts.append(" ".join(words))
    return texts


def _real(shared: Path, n_bytes: int) -> Iterator[str]:
    from athanor.data.readers import InputFile, read_file
    from athanor.data.types import Document

    size = 0
    for name in ("c4_demo", "en_novels"):
        path = shared / "corpus" / f"{name}.jsonl.zst"
        for item in read_file(InputFile(path, path.name)) if path.is_file() else ():
            text = item.text if isinstance(item, Document) else ""
            for at in range(0, len(text), 8000):  # novels are too long for Gopher's rules
                if size >= n_bytes:
                    return
                yield text[at : at + 8000]
                size += len(text[at : at + 8000])


def athanor(folder: Path, out: Path) -> int:
    """Documents kept by the pipeline, in this process."""
    recipe = Recipe.model_validate(
        {
            "data": {
                "sources": {"web": {"paths": [str(folder)]}},
                "steps": [{"step": name} for name in STEPS],
                "workers": 1,
            }
        }
    )
    corpus: CorpusDir = build_corpus(recipe, out)
    return corpus.count("web", "train")


def datatrove(split: Callable[..., list[str]] | None) -> Callable[[Path, Path], int]:
    """The same by datatrove's blocks; ``split``: words otherwise than by its default."""
    import orjson  # noqa: F401 - datatrove's reader needs it and says so only when it runs
    import xxhash
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup import minhash as minhash_module
    from datatrove.pipeline.filters import (
        GopherQualityFilter,
        GopherRepetitionFilter,
        LambdaFilter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )
    from datatrove.pipeline.formatters import FTFYFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils import text
    from datatrove.utils.logging import logger
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    logger.remove()
    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    config = minhash_module.MinhashConfig(num_buckets=14, hashes_per_bucket=8, n_grams=5)

    def run(folder: Path, out: Path) -> int:
        for module in (gopher_quality_filter, gopher_repetition_filter, minhash_module):
            if hasattr(module, "split_into_words"):
                module.split_into_words = split or text.split_into_words
        signature = MinhashDedupSignature(f"{out}/signatures", config=config)
        # xxhash 4 takes bytes alone, datatrove 0.10 hands it text: the same function on the same bytes.
        signature._hash_func = lambda gram: xxhash.xxh64_intdigest(gram.encode())
        stages: list[list[Any]] = [
            [
                JsonlReader(str(folder)),
                FTFYFormatter(),
                LambdaFilter(lambda doc: model.classify(doc.text)[0] == "en"),
                GopherRepetitionFilter(),
                GopherQualityFilter(),
                JsonlWriter(f"{out}/filtered", output_filename="${rank}.jsonl", compression=None),
            ],
            [JsonlReader(f"{out}/filtered"), signature],
            [MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config)],
            [MinhashDedupCluster(f"{out}/buckets", f"{out}/removed", config=config)],
            [
                JsonlReader(f"{out}/filtered"),
                MinhashDedupFilter(f"{out}/removed"),
                JsonlWriter(f"{out}/final", output_filename="${rank}.jsonl", compression=None),
            ],
        ]
        for number, stage in enumerate(stages):
            tasks = config.num_buckets if number == 2 else 1
            LocalPipelineExecutor(stage, tasks=tasks, workers=1, logging_dir=f"{out}/logs-{number}").run()
        return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (out / "final").glob("*.jsonl"))

    return run


def measure(texts: list[str], rounds: int) -> list[dict[str, Any]]:
    """CPU seconds of every contender, medians of interleaved rounds after one small round that warms up."""
    contenders: dict[str, Callable[[Path, Path], int]] = {"athanor": athanor}
    try:
        contenders["datatrove, str.split"] = datatrove(lambda text, language=None: text.split())
        import spacy  # noqa: F401 - what datatrove splits words with by default

        contenders["datatrove"] = datatrove(None)
    except ImportError as missing:
        print(f"not compared: {missing}", file=sys.stderr)
    size = sum(len(text.encode()) for text in texts) / 1e6
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    kept: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        small, whole = Path(scratch) / "small", Path(scratch) / "whole"
        for folder, part in ((small, texts[:20]), (whole, texts)):
            folder.mkdir()
            rows = (json.dumps({"text": text, "id": str(i)}) + "\n" for i, text in enumerate(part))
            (folder / "docs.jsonl").write_text("".join(rows), encoding="utf-8")
        for number in range(rounds + 1):
            for name, run in contenders.items():
                out = Path(scratch) / "out"
                begun = time.process_time()
                found = run(whole if number else small, out)
                if number:
                    taken[name].append(time.process_time() - begun)
                    kept[name] = found
                shutil.rmtree(out)
    return [
        {
            "contender": name,
            "megabytes": size,
            "documents": len(texts),
            "kept": kept[name],
            "cpu_s": statistics.median(times),
            "spread": (max(times) - min(times)) / statistics.median(times),
            "mb_per_s": size / statistics.median(times),
        }
        for name, times in taken.items()
    ]


def main() -> int:
    """Print the table; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few documents, one round, no bars")
    parser.add_argument("--megabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shared", type=Path, default=os.environ.get("ATHANOR_SHARED_DATA"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    shared = Path(args.shared) if args.shared else None
    texts = documents(200_000 if args.quick else int(args.megabytes * 1e6), shared)
    rows = measure(texts, 1 if args.quick else args.rounds)
    show("whole path", list(rows[0]), [list(row.values()) for row in rows])
    speed = {row["contender"]: row["mb_per_s"] for row in rows}
    bars = [
        {
            "bar": f"athanor / {name}",
            "value": speed["athanor"] / speed[name],
            "target": target,
            "holds": speed["athanor"] / speed[name] >= target,
        }
        for name, target in (("datatrove", TARGET), ("datatrove, str.split", TARGET_SPLIT))
        if name in speed
    ]
    if bars:
        show("bars", list(bars[0]), [list(bar.values()) for bar in bars])
    if args.out is not None:
        args.out.write_text(json.dumps({"rows": rows, "bars": bars, "environment": environment()}, indent=1) + "\n")
    return 0 if args.quick or all(bar["holds"] for bar in bars) else 1


if __name__ == "__main__":
    raise SystemExit(main())

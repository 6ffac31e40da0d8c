"""What curation buys: one proxy model on a raw corpus with planted noise, and on what `athanor data build` made of it.

    python bench/data_ablation.py [--quick] [--seeds 3] [--shared FOLDER] [--out FILE]

Clean text: the standard library's prose and code, worked arithmetic in both languages, with ``--shared`` its Chinese
technical documents. Planted: documents again (whole, and with some words changed), navigation pages, text decoded with
the wrong encoding, random characters, keyword lists. Held-out text is clean and never planted. Both runs share
tokenizer, initial weights, batch and learning rate (constant, so that every point of the curve stands for a run of that
length); the raw run goes on until it reaches the loss that the built corpus reached, or to its last step.

Pangu Ultra (arXiv 2504.07866) tells that a 2.6 B proxy needs 1.6 times the tokens on data of low quality.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from athanor.data import arithmetic
from athanor.data.build import build_corpus
from athanor.data.loader import PackedLoader, held_out_batches
from athanor.data.readers import InputFile, read_file
from athanor.data.shards import ShardSet, ShardWriter
from athanor.data.stdlib_corpus import stdlib_documents
from athanor.data.types import Batch, Document
from athanor.recipe.schema import Recipe, ScheduleRecipe, TrainRecipe
from athanor.tokenizer import Tokenizer, train_tokenizer
from athanor.train.objective import CausalLM
from athanor.train.run_dir import RunDir
from athanor.train.sources import BatchPlan, PackedSource
from athanor.train.stages import Stage
from athanor.train.trainer import Trainer
from bench.common import environment, show, small_decoder

SEQ, BATCH_ROWS, VOCAB = 256, 16, 2048
#: The raw run may take this many times the built one's tokens.
LONGEST = 2.5
#: Bytes of planted noise for each byte of clean text, by kind.
NOISE = {"copies": 0.35, "near copies": 0.25, "navigation": 0.15, "garbled": 0.15, "random": 0.1, "keywords": 0.1}
STEPS = (
    {"step": "normalise", "max_garbled_share": 0.01},
    {"step": "language", "languages": ["en", "zh"], "keep_unknown": True},
    {"step": "gopher", "skip_domains": ["code", "math"]},
    {"step": "repetition"},
    {"step": "irrelevant"},
    {"step": "exact_dedup"},
    {"step": "minhash"},
    {"step": "quality", "min_axis": {"cleanliness": 0.3, "fluency": 0.2}},
)


def clean_documents(shared: Path | None) -> Iterator[Document]:
    """Clean text, the domain told."""
    for part, domain in (("prose", "general"), ("code", "code")):
        for item in stdlib_documents(part):  # type: ignore[arg-type]
            if isinstance(item, Document):
                for at in range(0, min(len(item.text), 24_000), 6000):
                    yield Document(f"{item.id}@{at}", item.text[at : at + 6000], domain)
    for item in arithmetic.documents(3000, 0, "train"):
        yield Document(item.id, item.text, "math")
    path = (shared or Path()) / "corpus" / "zh_tech_docs.jsonl.zst"
    if shared is not None and path.is_file():
        for item in read_file(InputFile(path, path.name)):
            if isinstance(item, Document):
                yield Document(item.id, item.text[:6000], "general")


def noise(kind: str, clean: list[Document], rng: random.Random) -> Document:
    """One planted document."""
    base = rng.choice(clean)
    name, text, domain = f"{kind} {rng.getrandbits(60):x}", base.text, base.domain
    if kind == "near copies":
        words = text.split(" ")
        text = " ".join("placeholder" if rng.random() < 0.004 else word for word in words)
    elif kind == "navigation":
        items = (
            "Home",
            "Sign in",
            "Register",
            "Contact us",
            "Privacy policy",
            "About",
            "首页",
            "登录",
            "注册",
            "下一页",
        )
        extra = ("We use cookies to improve your experience. Accept all cookies", "版权所有 保留所有权利", "Share on")
        text = "\n".join(rng.choice(items if rng.random() < 0.7 else extra) for _ in range(rng.randint(20, 120)))
        domain = "general"
    elif kind == "garbled":
        text = "".join(chr(ord(c) + 0x0400) if rng.random() < 0.5 and c.isalpha() else c for c in text)
        domain = "general"
    elif kind == "random":
        text = "".join(chr(rng.choice((rng.randint(33, 126), rng.randint(0xA1, 0x2FF)))) for _ in range(2000))
        domain = "general"
    elif kind == "keywords":
        words = [w for w in base.text.split() if w.isalpha()][:12] or ["cheap"]
        text, domain = " ".join(rng.choice(words) for _ in range(600)), "general"
    return Document(name, text, domain)


def raw_and_held_out(shared: Path | None, quick: bool) -> tuple[list[Document], list[Document]]:
    """(clean text with planted noise, held-out clean text)."""
    rng = random.Random(7)
    clean = list(clean_documents(shared))
    rng.shuffle(clean)
    clean = clean[: 300 if quick else 6000]
    held_out, kept = clean[: len(clean) // 20], clean[len(clean) // 20 :]
    size = sum(len(d.text.encode()) for d in kept)
    raw = list(kept)
    for kind, share in NOISE.items():
        left = share * size
        while left > 0:
            raw.append(noise(kind, kept, rng))
            left -= len(raw[-1].text.encode())
    rng.shuffle(raw)
    return raw, held_out


def build(raw: list[Document], folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Texts that the pipeline keeps, and its report."""
    sources = {}
    for domain in ("general", "code", "math"):
        path = folder / "in" / f"{domain}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = (json.dumps({"text": d.text, "id": d.id}, ensure_ascii=False) for d in raw if d.domain == domain)
        path.write_text("\n".join(rows), encoding="utf-8")
        sources[domain] = {"paths": [str(path)], "domain": domain}
    recipe = Recipe.model_validate({"data": {"sources": sources, "steps": list(STEPS), "workers": 1}})
    corpus = build_corpus(recipe, folder / "built")
    return [d.text for name in corpus.sources for d in corpus.documents(name, "train")], dict(corpus.report)


def shards_of(texts: list[str], tokenizer: Tokenizer, folder: Path) -> ShardSet:
    """Token shards of texts."""
    with ShardWriter(folder, tokenizer.fingerprint, tokenizer.vocab_size, eos_id=tokenizer.eos_id) as writer:
        for ids in tokenizer.encode_batch(texts):
            if len(ids):
                writer.add(ids)
    return ShardSet.open(folder)


def train(shards: ShardSet, held_out: list[Batch], steps: int, every: int, seed: int, out: Path) -> list[float]:
    """Held-out loss (nats a token) after every ``every`` steps."""
    recipe = TrainRecipe(
        seq_len=SEQ,
        global_batch_tokens=SEQ * BATCH_ROWS,
        schedule=ScheduleRecipe(kind="constant", lr=3e-3, warmup_steps=min(30, steps // 4)),
        eval_every_steps=every,
        tensorboard=False,
    )
    loader = PackedLoader({"corpus": shards}, None, SEQ, seed)
    source = PackedSource(loader, BatchPlan(SEQ, SEQ * BATCH_ROWS, [], "bench"), None)
    stage = Stage("general", source, steps, recipe.schedule, None, {"clean": held_out})
    run = RunDir.open(out, Recipe(seed=seed), ("seed",))
    Trainer(
        small_decoder(seed, VOCAB, SEQ, hidden_size=128, num_hidden_layers=4),
        CausalLM(),
        [stage],
        recipe,
        run,
        seed,
        quiet=True,
        resumable=False,
    ).fit()
    losses = []
    for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        found = json.loads(line)
        if "eval" in found:
            losses.append(
                float(
                    found["eval"]["clean"]["loss"]
                    if isinstance(found["eval"]["clean"], dict)
                    else found["eval"]["clean"]
                )
            )
    return losses


def times_more(raw: list[float], built: list[float]) -> float | None:
    """How many times the tokens the raw corpus needed for the built one's last loss; None: it never got there."""
    wanted = min(built)
    at = next((i for i, loss in enumerate(raw) if loss <= wanted), None)
    if at is None:
        return None
    before = raw[at - 1] if at else raw[0] + 1e-9
    part = (before - wanted) / max(before - raw[at], 1e-12)
    return (at + part) / len(built)


def main() -> int:
    """Print the table; 1 where the built corpus is no better at equal tokens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps, one seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--shared", type=Path, default=os.environ.get("ATHANOR_SHARED_DATA"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    steps, every, seeds = (8, 4, 1) if args.quick else (args.steps, 10, args.seeds)
    raw, held_out = raw_and_held_out(Path(args.shared) if args.shared else None, args.quick)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kept, report = build(raw, folder)
        tokenizer = train_tokenizer(kept, 600 if args.quick else VOCAB)
        sets = {
            "raw": shards_of([d.text for d in raw], tokenizer, folder / "raw"),
            "built": shards_of(kept, tokenizer, folder / "tokens"),
        }
        valid = held_out_batches(
            shards_of([d.text for d in held_out], tokenizer, folder / "valid"), SEQ, 60_000, rows_per_batch=32
        )
        rows: list[dict[str, Any]] = []
        for seed in range(seeds):
            curves = {
                name: train(
                    shards,
                    valid,
                    int(steps * (LONGEST if name == "raw" else 1)),
                    every,
                    seed,
                    folder / f"{name}-{seed}",
                )
                for name, shards in sets.items()
            }
            at = len(curves["built"]) - 1
            rows.append(
                {
                    "seed": seed,
                    "raw, equal tokens": curves["raw"][at],
                    "built": curves["built"][at],
                    "difference": curves["built"][at] - curves["raw"][at],
                    "times more tokens": times_more(curves["raw"], curves["built"]),
                    "curves": curves,
                }
            )
    planted = {kind: sum(d.id.startswith(kind) for d in raw) for kind in NOISE}
    show("corpora", ["", "documents", "tokens"], [[n, s.n_docs, s.n_tokens] for n, s in sets.items()])
    columns = [name for name in rows[0] if name != "curves"]
    show("held-out loss on clean text, nats a token", columns, [[row[c] for c in columns] for row in rows])
    ratios = [row["times more tokens"] for row in rows if row["times more tokens"] is not None]
    if len(ratios) == len(rows):
        print(f"the raw corpus needs {statistics.mean(ratios):.2f} times the tokens (Pangu Ultra tells 1.6)")
    else:
        print(f"the raw corpus did not get there within {LONGEST} times the tokens in {len(rows) - len(ratios)} runs")
    if args.out is not None:
        result = {"rows": rows, "planted": planted, "steps": steps, "tally": report["tally"]["reasons"]}
        args.out.write_text(json.dumps({**result, "environment": environment()}, indent=1) + "\n")
    return 0 if args.quick or all(row["difference"] < 0 for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())

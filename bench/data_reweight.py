"""Online re-weighting against static mixtures: a proxy decoder, five generated domains, equal tokens, several seeds.

    python -m bench.data_reweight [--quick] [--seeds 3] [--out bench/results/data_reweight.json]

Domains: worked arithmetic, standard-library code, standard-library prose, Chinese sentences from a grammar, and random
hexadecimal lines, which no model can learn. Two static mixtures: ``uniform``, which knows nothing, and ``natural``,
skewed towards prose and code. For each, runs of a seed share initial weights, shards, steps and tokens:

    static        the mixture as it is; its training losses by source are the reference of the next
    excess        shares follow the losses above that reference (after DoReMi)
    bandit        shares follow the losses themselves, no reference (after ODM)
    exported      a fresh static run on the mean shares that ``excess`` wrote down: the next run's mixture

Figures are held-out losses in nats a token at the end: the mean over domains and the worst domain. Lower is better.
Differences are to the static run of the same seed; "no worse" means: not above it by more than two standard errors.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from athanor.data import arithmetic
from athanor.data.loader import PackedLoader, held_out_batches
from athanor.data.mixtures import read_mixture
from athanor.data.shards import ShardSet, ShardWriter
from athanor.data.stdlib_corpus import stdlib_documents
from athanor.data.types import Batch, Document
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.recipe.mixing import ReweightRecipe
from athanor.recipe.presets import PRESETS
from athanor.recipe.schema import ScheduleRecipe, TrainRecipe
from athanor.tokenizer import Tokenizer, train_tokenizer
from athanor.train.objective import CausalLM, CausalLMBySource
from athanor.train.reweighting import Reweighting
from athanor.train.run_dir import RunDir
from athanor.train.sources import BatchPlan, PackedSource
from athanor.train.stages import Stage
from athanor.train.trainer import Trainer
from bench.common import environment, show, small_decoder

NATURAL = {"prose": 0.50, "code": 0.30, "chinese": 0.10, "arithmetic": 0.07, "noise": 0.03}
UNIFORM = dict.fromkeys(NATURAL, 0.2)
SEQ, BATCH_ROWS, VOCAB = 128, 16, 512
EVERY = 5
STANDARD_ERRORS = 2.0

_ZH = {
    "who": ["老师", "孩子", "工人", "邻居", "农民", "医生", "厨师", "旅客", "船长", "学生"],
    "when": ["早晨", "昨天下午", "每逢周末", "去年冬天", "下雨的时候", "天黑以前", "春节前后"],
    "where": ["在河边", "在图书馆", "在市场里", "在车站", "在山脚下", "在厨房", "在院子里"],
    "does": ["看见", "修理", "谈起", "寻找", "买下", "画出", "带来", "整理"],
    "what": ["一本旧书", "两把椅子", "三只白鹤", "一封长信", "新的地图", "许多苹果", "那盏油灯", "半袋面粉"],
    "then": ["然后慢慢地走回家。", "心里十分高兴。", "可是没有人相信。", "于是大家都笑了。", "直到月亮升起来。"],
}


def chinese(rng: random.Random) -> str:
    """A few sentences of a small grammar."""
    parts = ("when", "who", "where", "does", "what")
    return "".join("".join(rng.choice(_ZH[p]) for p in parts) + "，" + rng.choice(_ZH["then"]) for _ in range(4))


def noise(rng: random.Random) -> str:
    """Random hexadecimal lines."""
    return "\n".join(f"{rng.getrandbits(96):024x}" for _ in range(3))


def texts(domain: str, n: int, seed: int) -> Iterator[str]:
    """``n`` texts of a domain (fewer where the library has no more); ``seed`` 0 is for training, 1 held out."""
    rng = random.Random(f"{domain} {seed}")
    if domain == "arithmetic":
        found = (d.text for d in arithmetic.documents(n, seed, "train"))
    elif domain in ("code", "prose"):
        library = (d for d in stdlib_documents(domain) if isinstance(d, Document))  # type: ignore[arg-type]
        found = (d.text[:4000] for i, d in enumerate(library) if (i % 10 == 9) == bool(seed))
    else:
        make = chinese if domain == "chinese" else noise
        found = (make(rng) for _ in range(n))
    return islice(found, n)


def prepare(
    folder: Path, n: int, eval_tokens: int = 16_384
) -> tuple[Tokenizer, dict[str, ShardSet], dict[str, list[Batch]]]:
    """The tokenizer (from equal parts), training shards and held-out batches by domain."""
    tokenizer = train_tokenizer((t for d in NATURAL for t in texts(d, n // 10, 0)), VOCAB)
    shards: dict[str, ShardSet] = {}
    held_out: dict[str, list[Batch]] = {}
    for domain in NATURAL:
        for seed, part in enumerate(("train", "valid")):
            path = folder / domain / part
            with ShardWriter(path, tokenizer.fingerprint, tokenizer.vocab_size, eos_id=tokenizer.eos_id) as writer:
                for text in texts(domain, n if part == "train" else n // 8, seed):
                    writer.add(tokenizer.encode(text))
        shards[domain] = ShardSet.open(folder / domain / "train")
        held_out[domain] = held_out_batches(
            ShardSet.open(folder / domain / "valid"), SEQ, eval_tokens, rows_per_batch=32
        )
    return tokenizer, shards, held_out


def train(
    out: Path,
    shards: dict[str, ShardSet],
    held_out: dict[str, list[Batch]],
    steps: int,
    seed: int,
    mixture: dict[str, float],
    rule: ReweightRecipe | None = None,
) -> tuple[dict[str, float], float]:
    """(held-out loss by domain at the end, seconds)."""
    begun = time.perf_counter()
    loader = PackedLoader(shards, mixture, SEQ, seed, tag_sources=rule is not None)
    source = PackedSource(loader, BatchPlan(SEQ, SEQ * BATCH_ROWS))
    schedule = ScheduleRecipe(kind="cosine", lr=4e-3, min_lr=4e-4, warmup_steps=max(2, steps // 20))
    stage = Stage("proxy", source, steps, schedule, evals=held_out)
    run = RunDir(out)
    recipe = TrainRecipe(seq_len=SEQ, global_batch_tokens=SEQ * BATCH_ROWS, tensorboard=False)
    watch = [] if rule is None else [Reweighting({"proxy": rule}, run)]
    objective = CausalLM() if rule is None else CausalLMBySource(loader.names)
    trainer = Trainer(
        small_decoder(seed, VOCAB, SEQ, hidden_size=96, num_hidden_layers=3),
        objective,
        [stage],
        recipe,
        run,
        seed,
        watch,
        CausalLM(),
        True,
        False,
    )
    losses = trainer.fit().last_eval
    return losses, time.perf_counter() - begun


def one_seed(
    folder: Path, shards: dict[str, ShardSet], held_out: dict[str, list[Batch]], steps: int, seed: int
) -> dict[str, Any]:
    """All runs of one seed, as ``mixture way``: losses by domain, seconds, and the shares that came out."""
    runs: dict[str, Any] = {}

    def go(name: str, mixture: dict[str, float], rule: ReweightRecipe | None = None) -> None:
        losses, seconds = train(folder / name, shards, held_out, steps, seed, mixture, rule)
        runs[name] = {"losses": losses, "wall_s": seconds, "shares": mixture}
        print(f"seed {seed} {name}: " + "  ".join(f"{d} {x:.4f}" for d, x in losses.items()), flush=True)

    for start, mixture in (("uniform", UNIFORM), ("natural", NATURAL)):
        go(f"{start} static", mixture, ReweightRecipe(method="watch"))
        common: dict[str, Any] = {"every_steps": EVERY, "warmup_steps": steps // 20}
        reference = str(folder / f"{start} static")
        go(f"{start} excess", mixture, ReweightRecipe(reference=reference, **common))
        go(f"{start} bandit", mixture, ReweightRecipe(method="bandit", **{**common, "eta": 0.5}))
        go(f"{start} exported", read_mixture(folder / f"{start} excess" / "mixture-proxy.yaml"))
    return runs


def cost(rounds: int) -> float:
    """What losses by source cost: CPU time of a step with them over one without, interleaved, medians."""
    config = PRESETS["mini"]
    model = Decoder(config)
    init_weights(model, 0)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.vocab_size, (8, 257), generator=generator)
    lens = [[256]] * 8
    positions = torch.arange(256).expand(8, -1).contiguous()
    extras = {"source": torch.arange(8) % 5}
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), positions, lens, extras, {"n_targets": 8 * 256})
    times: dict[str, list[float]] = {"plain": [], "by source": []}
    ways: dict[str, CausalLM] = {"plain": CausalLM(), "by source": CausalLMBySource(list(NATURAL))}
    for _ in range(rounds + 1):
        for name, objective in ways.items():
            begun = time.process_time()
            objective(model, batch).loss_sum.backward()
            times[name].append(time.process_time() - begun)
            model.zero_grad()
    plain, by_source = (statistics.median(times[name][1:]) for name in ways)
    return by_source / plain


def figures(losses: dict[str, float]) -> dict[str, float]:
    """What is compared."""
    return {"mean": statistics.mean(losses.values()), "worst": max(losses.values())}


def judge(seeds: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Differences to the static run of the same mixture, paired by seed: mean, spread, and whether it is no worse."""
    static = f"{name.split()[0]} static"
    rows = []
    for figure in ("mean", "worst"):
        found = [figures(runs[name]["losses"])[figure] for runs in seeds]
        apart = [x - figures(runs[static]["losses"])[figure] for x, runs in zip(found, seeds, strict=True)]
        spread = statistics.stdev(apart) if len(apart) > 1 else 0.0
        error = spread / len(apart) ** 0.5
        row: dict[str, Any] = {"run": name, "figure": figure, "value": statistics.mean(found)}
        row |= {"difference": statistics.mean(apart), "spread": spread}
        rows.append(row | {"no_worse": row["difference"] <= STANDARD_ERRORS * error})
    return rows


def main() -> None:
    """Run all seeds, print the tables and the bar, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps: for the smoke test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps, n_seeds, n, eval_tokens = (6, 1, 120, 512) if args.quick else (args.steps, args.seeds, 4000, 8192)
    with tempfile.TemporaryDirectory() as scratch:
        _, shards, held_out = prepare(Path(scratch) / "data", n, eval_tokens)
        seeds = [one_seed(Path(scratch) / f"seed-{s}", shards, held_out, steps, s) for s in range(n_seeds)]
    rows = [row for name in seeds[0] for row in judge(seeds, name)]
    losses = [
        [name, *(statistics.mean(runs[name]["losses"][domain] for runs in seeds) for domain in NATURAL)]
        for name in seeds[0]
    ]
    show(f"Held-out loss, nats a token, mean of {n_seeds} seeds", ["run", *NATURAL], losses)
    keys = ("run", "figure", "value", "difference", "spread", "no_worse")
    moved = [row for row in rows if not row["run"].endswith("static")]
    show("Against static, paired by seed", keys, [[row[key] for key in keys] for row in moved])
    shares = {
        name: {domain: statistics.mean(runs[name]["shares"][domain] for runs in seeds) for domain in NATURAL}
        for name in seeds[0]
        if name.endswith("exported")
    }
    show("Shares exported", ["run", *NATURAL], [[name, *values.values()] for name, values in shares.items()])
    met = all(row["no_worse"] for row in rows if row["run"].endswith("excess"))
    print(f"bar: re-weighting (excess) against static, mean and worst domain no worse: {'holds' if met else 'fails'}")
    ratio = cost(1 if args.quick else 15)
    print(f"bar: losses by source cost < 1 % of a step ({ratio - 1:+.2%}): {'holds' if ratio < 1.01 else 'fails'}")
    if args.out is not None:
        result: dict[str, Any] = {"environment": environment(1), "steps": steps, "tokens": steps * SEQ * BATCH_ROWS}
        result |= {"rows": rows, "seeds": seeds, "shares": shares, "bar_holds": met, "step_cost_ratio": ratio}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

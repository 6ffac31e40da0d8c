# ruff: noqa: E501 - tables of cases, a line each
"""Quality scores: agreement with labels on examples of another seed, and on real text damaged in ways never trained on.

    python -m bench.data_quality [--quick] [--out bench/results/data_quality.json]

Two kinds of rows. *generated*: the project's examples of a seed that training has not seen, with their labels: AUC (label
at least ½) and Spearman's rank correlation. *real*: texts of ../shared/data (left out where absent) against the same
texts damaged by an amount drawn for each: AUC of whole against damaged, Spearman of score and −amount (whole: 0); and
two comparisons of real collections. The damages here are other code and other words than those of training; but their
rows were looked at while the models were made (mistyped letters joined the training, and the L2 was chosen, after a look),
so they are a development set of real text and not an untouched one.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from athanor.data.steps.base import Docs
from athanor.data.steps.quality import Quality
from athanor.data.steps.quality_examples import AXES, examples
from athanor.data.steps.quality_model import QualityModel, agreement, auc, group_of
from athanor.data.steps.quality_train import generated_model, own_texts
from athanor.recipe.steps.quality import QualityOptions
from bench.common import environment, show

DATA = Path("../shared/data")
HELD_OUT_SEED = 77
#: The issue asks that agreement be reported; these targets are ours.
TARGET = {"generated AUC": 0.9, "real AUC": 0.75}


def read(name: str, key: str, limit: int) -> list[str]:
    """Texts of a file of the shared data; none where it is absent."""
    path = DATA / name
    if not path.is_file():
        return []
    with open(path, "rb") as raw:
        stream: Any = zstandard.ZstdDecompressor().stream_reader(raw) if name.endswith(".zst") else raw
        lines = io.TextIOWrapper(stream, encoding="utf-8")
        if key:
            texts = [json.loads(line)[key] for _, line in zip(range(limit), lines, strict=False)]
        else:
            texts = [line.strip() for _, line in zip(range(limit), lines, strict=False)]
    return [text for text in texts if len(text) >= 200]


def cut(rng: random.Random, text: str, low: int = 500, high: int = 2500) -> str:
    """A piece of a text from a line's start."""
    n = rng.randint(low, high)
    start = rng.randrange(max(len(text) - n, 1))
    return text[text.rfind("\n", 0, start) + 1 :][:n]


Damage = Callable[[random.Random, str, float], str]


def _words(text: str) -> list[str]:
    return re.findall(r"[一-鿿]|[A-Za-z']+|\s+|[^\sA-Za-z一-鿿]", text)


def drop_words(rng: random.Random, text: str, amount: float) -> str:
    """Words or characters are missing."""
    return "".join(w for w in _words(text) if not w.strip() or rng.random() > 0.1 + 0.5 * amount)


def reverse_clauses(rng: random.Random, text: str, amount: float) -> str:
    """The words of a clause in reverse."""
    parts = re.split(r"([,.;:!?，。；：！？\n])", text)
    return "".join("".join(reversed(_words(p))) if rng.random() < 0.2 + 0.8 * amount else p for p in parts)


def swap_letters(rng: random.Random, text: str, amount: float) -> str:
    """Inner letters of Latin words change places; Chinese characters become others of the text."""
    han = re.findall(r"[一-鿿]", text)

    def other(match: re.Match[str]) -> str:
        word = match.group()
        if rng.random() > 0.1 + 0.5 * amount:
            return word
        if len(word) == 1:
            return rng.choice(han)
        inner = list(word[1:-1])
        rng.shuffle(inner)
        return word[0] + "".join(inner) + word[-1]

    return re.sub(r"[A-Za-z]{4,}|[一-鿿]", other, text)


def mojibake(rng: random.Random, text: str, amount: float) -> str:
    """Stretches whose UTF-8 was read as another encoding."""
    out, at = [], 0
    while at < len(text):
        n = rng.randint(20, 80)
        part = text[at : at + n]
        if rng.random() < 0.1 + 0.8 * amount:
            raw = part.encode("utf-8")
            part = raw.decode("gbk", "replace") if not part.isascii() else raw.decode("utf-16-le", "replace")[:n]
        out.append(part)
        at += n
    return "".join(out)


def blobs(rng: random.Random, text: str, amount: float) -> str:
    """Base64 and JSON between the lines."""
    lines = text.split("\n")
    for _ in range(1 + int(amount * 8)):
        raw = base64.b64encode(rng.randbytes(rng.randint(40, 140))).decode()
        lines.insert(
            rng.randint(0, len(lines)), rng.choice((raw, json.dumps({"k": rng.random(), "v": raw[:30], "ok": None})))
        )
    return "\n".join(lines)


_FURNITURE = (
    "FAQ | Careers | Press | Help Center", "Follow @daily on Instagram", "Subscribe to our channel", "Sort by: newest oldest popular", "Reply Quote Flag",
    "客服中心 帮助 网站地图 English", "关注微博 投稿 爆料", "扫一扫下载客户端", "评论(0) 点赞 举报", "相关推荐：更多精彩内容请点击", "ICP证 增值电信业务经营许可证",
    "Tags: misc, other, news", "View cart Checkout My account", "Toggle navigation", "All trademarks are property of their owners",
)  # fmt: skip


def furniture(rng: random.Random, text: str, amount: float) -> str:
    """Menus and footers of other words than the training's."""
    zh = bool(re.search(r"[一-鿿]", text))
    mine = [f for f in _FURNITURE if bool(re.search(r"[一-鿿]", f)) == zh]
    lines = text.split("\n")
    for _ in range(3 + int(amount * 15)):
        lines.insert(rng.randint(0, len(lines)), rng.choice(mine))
    return "\n".join(lines)


def paste_again(rng: random.Random, text: str, amount: float) -> str:
    """The same third of a text over and over."""
    third = text[: max(len(text) // 3, 60)]
    return third + "\n" + "\n".join([third] * (1 + int(4 * amount)))


_EMPTY = {
    True: ("这个事情嘛，怎么说呢，反正就是这样的。", "我们应当高度重视，切实抓好，真正落到实处。", "情况就是这么个情况，大家心里都明白。", "对于这一点，不同的人有不同的看法。"),
    False: ("Well, what can one say, it is what it is.", "People have different opinions about it and that is fine.", "We should take it seriously and do our best going forward.",
            "There is always more to it than one might think at first."),
}  # fmt: skip


def pad(rng: random.Random, text: str, amount: float) -> str:
    """Sentences that say nothing, of other words than the training's."""
    zh = bool(re.search(r"[一-鿿]", text))
    parts = re.split(r"(?<=[.。!！?？\n])", text)
    return "".join(p + (rng.choice(_EMPTY[zh]) if rng.random() < 0.3 + 0.7 * amount else "") for p in parts)


def rename(rng: random.Random, text: str, amount: float) -> str:
    """Code without comments and with names that say nothing."""
    text = re.sub(r"(?m)#.*$", "", re.sub(r'"""(?:.|\n)*?"""', "", text))
    names: dict[str, str] = {}
    return re.sub(
        r"\b[a-z]+_[a-z_]+\b",
        lambda m: names.setdefault(m.group(), f"v{len(names)}") if rng.random() < amount + 0.3 else m.group(),
        text,
    )


#: (damage, axis that it must lower, groups it is tried on)
DAMAGES: tuple[tuple[Damage, str, tuple[str, ...]], ...] = (
    (mojibake, "cleanliness", ("en", "zh")),
    (blobs, "cleanliness", ("en", "zh", "code")),
    (furniture, "cleanliness", ("en", "zh")),
    (drop_words, "fluency", ("en", "zh", "maths")),
    (reverse_clauses, "fluency", ("en", "zh", "maths")),
    (swap_letters, "fluency", ("en", "zh")),
    (reverse_clauses, "fluency", ("code",)),
    (paste_again, "density", ("en", "zh", "code", "maths")),
    (pad, "density", ("en", "zh", "maths")),
    (rename, "educational", ("code",)),
)


def real_texts(limit: int) -> dict[str, list[str]]:
    """Clean real texts of each group."""
    return {
        "en": read("corpus/wiki_demo_en.txt.zst", "", limit) + read("corpus/en_novels.jsonl.zst", "text", 29),
        "zh": read("corpus/zh_tech_docs.jsonl.zst", "text", limit),
        "code": read("corpus/code_python.jsonl.zst", "text", limit),
        "maths": read("eval/gsm8k/train.jsonl.zst", "answer", 3 * limit)
        + read("corpus/arxiv_sample_llmfoundry.jsonl.zst", "text", limit),
    }


def scores_of(model: QualityModel, texts: list[str], group: str) -> Any:
    """[texts, axes], by the group that the step would choose."""
    domain = "code" if group == "code" else "general"
    return model.score(texts, [group_of(text, domain) for text in texts])


def damaged_rows(model: QualityModel, limit: int, seed: int) -> list[dict[str, Any]]:
    """One row for each damage and group of real texts."""
    rows = []
    for group, texts in real_texts(limit).items():
        for damage, axis, groups in DAMAGES:
            if group not in groups or not texts:
                continue
            rng = random.Random(f"{seed} {group} {damage.__name__}")
            whole = [cut(rng, rng.choice(texts)) for _ in range(limit)]
            amounts = [rng.random() for _ in whole]
            broken = [damage(rng, text, amount) for text, amount in zip(whole, amounts, strict=True)]
            s = np.concatenate([scores_of(model, whole, group), scores_of(model, broken, group)])[:, AXES.index(axis)]
            is_whole = np.arange(len(s)) < len(whole)
            rows.append({"group": group, "axis": axis, "case": damage.__name__, "texts": len(s), "auc": auc(s, is_whole),
                         "spearman": _rank(s, [0.0] * len(whole) + [-0.2 - a for a in amounts])})  # fmt: skip
    return rows


def _rank(a: Any, b: Any) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def collection_rows(model: QualityModel, limit: int) -> list[dict[str, Any]]:
    """Real collections against one another: encyclopaedia against web pages; edited against machine-translated Chinese."""
    pairs = (
        ("en", "educational", "encyclopaedia > web pages", read("corpus/wiki_demo_en.txt.zst", "", limit), read("corpus/c4_demo.jsonl.zst", "text", limit)),
        ("en", "cleanliness", "encyclopaedia > web pages", read("corpus/wiki_demo_en.txt.zst", "", limit), read("corpus/c4_demo.jsonl.zst", "text", limit)),
        ("maths", "educational", "worked solutions > web pages", read("eval/gsm8k/train.jsonl.zst", "answer", limit), read("corpus/c4_demo.jsonl.zst", "text", limit)),
        ("zh", "fluency", "edited > machine-translated", read("sft/alpaca_zh_demo.jsonl.zst", "output", 3 * limit),
         read("sft/alpaca_zh_machine_translated.jsonl.zst", "output", 20 * limit)),
    )  # fmt: skip
    rows = []
    for group, axis, case, better, worse in pairs:
        if better and worse:
            better, worse = [t[:2500] for t in better[:limit]], [t[:2500] for t in worse[:limit]]
            s = np.concatenate([scores_of(model, better, group), scores_of(model, worse, group)])[:, AXES.index(axis)]
            positive = np.arange(len(s)) < len(better)
            rows.append(
                {
                    "group": group,
                    "axis": axis,
                    "case": case,
                    "texts": len(s),
                    "auc": auc(s, positive),
                    "spearman": _rank(s, positive),
                }
            )
    return rows


def speed(limit: int, rounds: int, cache: Path) -> dict[str, float]:
    """MB/s of CPU time of the whole step on real texts (else on generated ones)."""
    step = Quality(QualityOptions(cache_dir=str(cache)))
    step.prepare()
    sets = {name: texts for name, texts in real_texts(limit).items() if texts}
    if not sets:
        sets = {"generated": [e.text for e in examples(limit, HELD_OUT_SEED, *own_texts())]}
    out = {}
    for name, texts in sets.items():
        docs = Docs.of([text[:4000] for text in texts], domain="code" if name == "code" else "general")
        times = []
        for _ in range(rounds):
            start = time.process_time()
            step.annotate(Docs(docs.table))
            times.append(time.process_time() - start)
        out[name] = float(docs.n_bytes.sum()) / 1e6 / statistics.median(times)
    return out


def measure(limit: int, rounds: int) -> dict[str, Any]:
    """All rows, as one JSON value."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        model = generated_model(Path(folder))
        train_s = time.process_time() - start
        held_out = list(examples(3 * limit, HELD_OUT_SEED, *own_texts()))
        return {
            "train_cpu_s": train_s,
            "generated": agreement(model, held_out),
            "real": damaged_rows(model, limit, seed=5) + collection_rows(model, limit),
            "speed_mb_per_s": speed(limit, rounds, Path(folder)),
        }


def bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Mean AUC of each axis against its target."""
    lines = []
    for kind in ("generated", "real"):
        for axis in AXES:
            values = [row["auc"] for row in result[kind] if row["axis"] == axis]
            if values:
                value, target = sum(values) / len(values), TARGET[f"{kind} AUC"]
                lines.append(
                    {
                        "bar": f"{kind}: mean AUC, {axis}",
                        "value": value,
                        "target": f"≥ {target}",
                        "met": value >= target,
                    }
                )
    return lines


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/data_quality.json"))
    args = parser.parse_args()
    result = measure(*((40, 1) if args.quick else (300, 3)))
    result |= {"bars": bars(result), "environment": environment()}
    for kind in ("generated", "real"):
        head = ("group", "axis", "case", "examples" if kind == "generated" else "texts", "auc", "spearman")
        show(kind, head, [[row.get(k) for k in head] for row in result[kind]])
    show(
        "MB/s of CPU time, texts of at most 4,000 characters", ("texts", "MB/s"), list(result["speed_mb_per_s"].items())
    )
    show(
        "bars",
        ("bar", "value", "target", "met"),
        [[line[k] for k in ("bar", "value", "target", "met")] for line in result["bars"]],
    )
    if not args.quick:
        args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()

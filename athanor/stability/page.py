"""What the laboratory leaves beside its runs: results.json, table.md, figures, and one self-contained page."""

from __future__ import annotations

import base64
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

import torch

from athanor.files import write_atomic, write_json
from athanor.stability.corpus import ByteCorpus
from athanor.stability.plots import draw
from athanor.stability.settings import LabSettings
from athanor.stability.spikes import SpikeRule
from athanor.stability.summary import (
    RunResult,
    Verdict,
    as_json,
    markdown_table,
    sentences,
    summarise,
    table_rows,
    verdicts,
)
from athanor.train.run_dir import jsonable

Text = tuple[str, str]

CAPTIONS: dict[str, Text] = {
    "loss": (
        "Training loss a step; a triangle marks a loss spike.",
        "每步训练损失；三角形表示损失尖峰。",
    ),
    "grad-norm": (
        "Gradient norm before clipping a step; a triangle marks a gradient spike.",
        "每步裁剪前的梯度范数；三角形表示梯度尖峰。",
    ),
    "residual-rms": (
        "RMS of the residual stream behind each block on the same held-out bytes; the band spans the seeds.",
        "同一批留出字节上各层之后残差流的均方根；阴影为各随机种子的范围。",
    ),
    "post-norm-gains": (
        "Post-norm gains by depth after training, mean and spread over channels, first seed; dotted: at the start.",
        "训练后各层后置归一化增益（通道均值与离散程度，首个种子）；点线为初始值。",
    ),
    "update-ratio": (
        "Size of an update relative to the weights it changes, for the matrices of each block.",
        "各层矩阵的更新量与权重大小之比。",
    ),
}

_STYLE = """
body{font-family:system-ui,-apple-system,"Segoe UI","PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif;
max-width:1080px;margin:0 auto;padding:28px 18px 70px;color:#22262b;background:#fff;line-height:1.6}
h1{font-size:28px}h2{font-size:19px;margin:40px 0 8px}img{max-width:100%;height:auto}
table{border-collapse:collapse;font-size:14px}th,td{padding:5px 10px;border-bottom:1px solid #e3e5e8;text-align:left;
font-variant-numeric:tabular-nums}.zh{color:#454b52}.scroll{overflow-x:auto}code{font-size:13px}
"""


def write_outputs(out: Path, settings: LabSettings, corpus: ByteCorpus, results: Sequence[RunResult]) -> Path:
    """Write everything that is drawn from ``results`` into ``out``; returns the path of ``report.html``."""
    rows = summarise(results)
    found = verdicts(rows)
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    cpu_s, wall_s = (sum(result[name] for result in results) for name in ("cpu_s", "wall_s"))
    summary = {
        "made": made,
        "settings": settings.model_dump(mode="json"),
        "spike_rule": asdict(SpikeRule()),
        "text": {
            "sha256": corpus.digest,
            "train_bytes": len(corpus.train_N),
            "heldout_bytes": len(corpus.heldout_N),
            "train_files": corpus.train_files,
            "heldout_files": corpus.heldout_files,
        },
        "environment": {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()},
        "runs": len(results),
        "cpu_s": cpu_s,
        "wall_s_of_runs": wall_s,
        "rows": as_json(rows),
        "verdicts": [asdict(verdict) for verdict in found],
    }
    write_json(out / "results.json", jsonable(summary))
    write_atomic(out / "table.md", markdown_table(rows))
    figures = draw(results, out, settings)
    page = _page(
        settings, found, table_rows(rows), figures, f"{len(results)} runs, {cpu_s / 60:.0f} CPU minutes, {made}"
    )
    write_atomic(out / "report.html", page)
    return out / "report.html"


def _both(text: Text) -> str:
    return f"<p>{escape(text[0])}</p><p class=zh lang=zh>{escape(text[1])}</p>"


def _intro(settings: LabSettings) -> Text:
    rule, tokens = SpikeRule(), settings.batch_rows * settings.seq_len
    loss_limit = f"max({rule.loss_floor:g}, {rule.mad_factor:g} · MAD)"
    return (
        f"Decoders of {settings.layers} layers, width {settings.width}, trained {settings.steps} steps of {tokens} "
        f"bytes of Python's standard library (warm-up {settings.warmup_steps}, clipping {settings.clip_norm:g}). "
        f"A loss spike is a step above the median of the previous {rule.window} losses by more than {loss_limit}; "
        f"a gradient spike is a norm over {rule.grad_factor:g} × the median of the previous {rule.window}. "
        "Consecutive steps count once. The held-out loss is taken on the same bytes for every run.",
        f"解码器 {settings.layers} 层、宽 {settings.width}，在 Python 标准库文本上训练 {settings.steps} 步，"
        f"每步 {tokens} 字节（预热 {settings.warmup_steps} 步，裁剪 {settings.clip_norm:g}）。"
        f"损失尖峰：高于前 {rule.window} 步损失中位数超过 {loss_limit}；"
        f"梯度尖峰：梯度范数超过前 {rule.window} 步中位数的 {rule.grad_factor:g} 倍。"
        "连续的步只算一次。所有运行的留出损失取自同一批字节。",
    )


def _page(
    settings: LabSettings,
    found: Sequence[Verdict],
    table: tuple[list[str], list[list[str]]],
    figures: dict[str, Path],
    footer: str,
) -> str:
    header, cells = table
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<title>Stability laboratory · Athanor</title><style>{_STYLE}</style></head><body>",
        "<h1>Stability laboratory · 稳定性实验室</h1>",
        _both(_intro(settings)),
        *(_both(sentences(verdict)) for verdict in found),
        f"<h2>Result · 结果</h2><div class=scroll><table><tr>{head}</tr>{body}</table></div>",
    ]
    for name, path in figures.items():
        data = base64.b64encode(path.read_bytes()).decode()
        parts += [_both(CAPTIONS[name]), f"<img alt='{escape(CAPTIONS[name][0])}' src='data:image/png;base64,{data}'>"]
    parts += [f"<p>{escape(footer)}</p><p><code>{escape(settings.model_dump_json())}</code></p></body></html>\n"]
    return "\n".join(parts)

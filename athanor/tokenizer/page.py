"""Reports of vocabularies: a text table for the terminal, and one HTML page with bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from athanor.report.svg import PALETTE, STYLE, Axes, bar_chart, share_chart

_COLUMNS = (
    ("bytes_per_token", "bytes/token", "{:.3f}"),
    ("tokens_per_word", "tokens/word", "{:.3f}"),
    ("tokens_per_char", "tokens/char", "{:.3f}"),
    ("used_share", "used", "{:.1%}"),
    ("byte_share", "single bytes", "{:.2%}"),
)
_CSS = """
body{font-family:system-ui,-apple-system,"Segoe UI","PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif;
max-width:1000px;margin:0 auto;padding:28px 18px 70px;color:var(--ink);background:var(--paper);line-height:1.55}
table{border-collapse:collapse;font-size:14px;margin:10px 0 26px}
th,td{padding:4px 12px;border-bottom:1px solid var(--line);text-align:right;font-variant-numeric:tabular-nums}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
.sep{color:var(--muted)}svg{max-width:100%;height:auto}.muted{color:var(--muted)}
"""


def rows(result: Mapping[str, Any], kind: str) -> list[list[str]]:
    """Header and lines: tokenizer, group, the figures, and bytes a token relative to the baseline if there is one."""
    baseline = result.get("baseline")
    out = [["tokenizer", kind, *(title for _, title, _ in _COLUMNS), *([f"vs {baseline}"] if baseline else [])]]
    for name, entry in result["tokenizers"].items():
        for group, figures in entry[kind].items():
            line = [name, group, *(form.format(figures[key]) for key, _, form in _COLUMNS)]
            out.append(line + ([f"{entry[f'{kind}_relative'][group]:.3f}"] if baseline else []))
        mean = [name, "harmonic mean", f"{entry[f'{kind}_harmonic_mean']:.3f}", *[""] * (len(_COLUMNS) - 1)]
        out.append(mean + ([f"{entry[f'{kind}_harmonic_mean_relative']:.3f}"] if baseline else []))
    return out


def class_rows(found: Mapping[str, int]) -> list[list[str]]:
    """Header and lines: tokens by class and their share."""
    total = sum(found.values())
    lines = [[kind, f"{n:,}", f"{n / total:.2%}"] for kind, n in found.items()]
    return [["class", "tokens", "share"], *lines, ["all", f"{total:,}", ""]]


def domain_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Header and lines: what each domain's text consists of, and how many tokens serve mostly it."""
    head = [
        "domain",
        "pieces",
        "distinct",
        "seen once",
        "in the top 10,000",
        "in no other domain",
        "tokens mostly its own",
    ]
    owned = result["tokens_by_domain"]
    lines = [
        [
            name,
            f"{figures['pieces']:,}",
            f"{figures['distinct']:,}",
            *(f"{figures[key]:.1%}" for key in ("once_share", "head_share", "own_share")),
            f"{owned[name]:,}",
        ]
        for name, figures in result["frequencies"].items()
    ]
    return [head, *lines, *([name, *[""] * 5, f"{owned[name]:,}"] for name in ("shared", "unused"))]


def kinds(result: Mapping[str, Any]) -> list[str]:
    """Which groupings the figures have: languages only where there is more than one."""
    first = next(iter(result["tokenizers"].values()))
    return [kind for kind in ("domain", "language") if kind == "domain" or len(first.get(kind, {})) > 1]


def table(result: Mapping[str, Any]) -> str:
    """The report as text."""
    parts = []
    if "classes" in result:
        head = f"{result['vocab_size']:,} tokens by {result['method']}, {result['unreachable']} unreachable"
        parts += [head, aligned(class_rows(result["classes"])), aligned(domain_rows(result))]
    if result.get("measured_on"):
        parts.append(f"measured on {result['measured_on']}")
    parts += [aligned(rows(result, kind)) for kind in kinds(result)]
    parts += [f"{method}: not possible: {why}" for method, why in result.get("not_possible", {}).items()]
    return "\n".join(parts)


def aligned(lines: Iterable[list[str]]) -> str:
    """Lines in columns: the first left, numbers right."""
    lines = list(lines)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [all(not any(c.isdigit() for c in line[i]) or i == 0 for line in lines[1:]) for i in range(len(widths))]
    return "\n".join(
        "  " + "  ".join(c.ljust(w) if t else c.rjust(w) for c, w, t in zip(line, widths, text, strict=True)).rstrip()
        for line in lines
    )


def page(result: Mapping[str, Any]) -> str:
    """The report as one HTML page that opens from disk."""
    body = ["<h1>Vocabulary · 词表</h1>"]
    if "classes" in result:
        body.append(
            f"<p>{result['vocab_size']:,} tokens, method <b>{escape(result['method'])}</b>, "
            f"{result['unreachable']} unreachable · 共 {result['vocab_size']:,} 个词元，"
            f"不可达 {result['unreachable']} 个</p>"
        )
        shares = {kind: float(n) for kind, n in result["classes"].items()}
        body += [
            _html(class_rows(result["classes"])),
            _figure(share_chart(("Tokens by class", "词元类别"), [("", shares)])),
        ]
    if result.get("measured_on"):
        body.append(f"<p class='muted'>Measured on {escape(result['measured_on'])}.</p>")
    for kind in kinds(result):
        body += [_bars(result, kind), _html(rows(result, kind))]
    for method, why in result.get("not_possible", {}).items():
        body.append(f"<p>{escape(method)}: {escape(why)}</p>")
    style = f"<style>{PALETTE}{STYLE}{_CSS}</style>"
    head = f"<!doctype html><html><head><meta charset='utf-8'><title>Vocabulary</title>{style}</head>"
    return f"{head}<body>{''.join(body)}</body></html>\n"


def _bars(result: Mapping[str, Any], kind: str) -> str:
    entries = result["tokenizers"]
    groups = list(next(iter(entries.values()))[kind])
    bars = [((name, name), [entry[kind][g]["bytes_per_token"] for g in groups]) for name, entry in entries.items()]
    names = {"domain": ("domain", "领域"), "language": ("language", "语言")}[kind]
    title = (f"Bytes a token by {names[0]} (more is better)", f"各{names[1]}每词元字节数（越大越好）")
    top = 1.15 * max(value for _, values in bars for value in values)
    return _figure(bar_chart(Axes(title, names, ("bytes/token", "字节/词元")), groups, bars, top))


def _figure(chart: str) -> str:
    return f"<figure style='margin:0'>{chart}</figure>" if chart else ""


def _html(lines: list[list[str]]) -> str:
    head, *rest = lines
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in rest)
    return f"<table><tr>{top}</tr>{cells}</table>"

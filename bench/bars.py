"""The bars of the CPU benchmark, judged from its own result: ratios to the fastest peer, each with who was compared."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def _best(rows: list[Row], key: str, *, smallest: bool = False) -> Row | None:
    known = [row for row in rows if row.get(key) is not None]
    if not known:
        return None
    return min(known, key=lambda r: r[key]) if smallest else max(known, key=lambda r: r[key])


def _name(row: Row) -> str:
    words = [row["contender"], row["precision"], row["mode"], row.get("batching")]
    return " ".join(word for word in words if word)


def _ratio(bar: str, ours: Row | None, peer: Row | None, key: str, target: float) -> list[Row]:
    """One line of the bars; none where either side was not measured."""
    if ours is None or peer is None:
        return []
    value = ours[key] / peer[key]
    return [_line(bar, _name(ours), _name(peer), value, f"≥ {target}", value >= target)]


def _line(bar: str, ours: str, peer: str, value: float, target: str, met: bool) -> Row:
    return {"bar": bar, "ours": ours, "peer": peer, "value": value, "target": target, "met": met}


def _split(rows: list[Row], precision: str | None = None) -> tuple[list[Row], list[Row]]:
    """(ours at equal structure, peers). ``athanor`` is the pre-norm model: the same work as the peers'."""
    mine = [r for r in rows if r["contender"] == "athanor" and precision in (None, r["precision"])]
    return mine, [r for r in rows if not r["contender"].startswith("athanor") and precision in (None, r["precision"])]


def judge(result: dict[str, Any]) -> list[Row]:
    """Every bar that the result has figures for."""
    return [
        *_throughput_bars(result.get("throughput", {}).get("rows", []), result["default_precision"]),
        *_mixed_bars(result.get("mixed", {}).get("rows", [])),
        *_loss_bars(result.get("loss", {}).get("rows", [])),
        *_loader_bars(result.get("loader", {})),
    ]


def _throughput_bars(rows: list[Row], default: str) -> list[Row]:
    bars: list[Row] = []
    for precision, target, mfu in (("fp32", 1.0, 0.9), ("bf16", 1.15, 0.8)):
        mine, peers = _split(rows, precision)
        ours = _best(mine, "tokens_per_s")
        bars += _ratio(f"{precision} tokens/s", ours, _best(peers, "tokens_per_s"), "tokens_per_s", target)
        if ours is not None:
            value = ours["mfu_cpu"]
            bars.append(_line(f"{precision} MFU_cpu", _name(ours), "GEMM rate", value, f"≥ {mfu}", value >= mfu))
    ours = _best(_split(rows, default)[0], "tokens_per_s")
    peer = _best(_split(rows, "fp32")[1], "tokens_per_s")  # a plain loop trains in float32 unless told otherwise
    return bars + _ratio("default tokens/s", ours, peer, "tokens_per_s", 1.5)


def _mixed_bars(rows: list[Row]) -> list[Row]:
    bars: list[Row] = []
    key = "useful_tokens_per_s"
    for precision in ("fp32", "bf16"):
        mine, peers = _split(rows, precision)
        for way in sorted({row["batching"] for row in peers}):
            peer = _best([row for row in peers if row["batching"] == way], key)
            bars += _ratio(f"{precision} mixed lengths, {way}", _best(mine, key), peer, key, 1.3)
    return bars


def _loss_bars(rows: list[Row]) -> list[Row]:
    ours = _best([r for r in rows if r["contender"].startswith("athanor")], "after", smallest=True)
    peer = _best([r for r in rows if not r["contender"].startswith("athanor")], "after", smallest=True)
    if ours is None or peer is None:
        return []
    value = ours["after"] - peer["after"]
    return [_line("held-out loss, difference in nats", _name(ours), _name(peer), value, "≤ 0", value <= 0)]


def _loader_bars(loader: dict[str, Any]) -> list[Row]:
    bars: list[Row] = []
    if loader.get("share") is not None:
        bars.append(_line("loader share", "loader", "step", loader["share"], "< 0.01", loader["share"] < 0.01))
    if loader:
        used = loader["packing_efficiency"]
        bars.append(_line("packing efficiency", "loader", "positions", used, "≥ 0.97", used >= 0.97))
    return bars

"""The charts of a run: which numbers go into which picture. Drawing is ``svg.py``, reading is ``read.py``."""

from __future__ import annotations

from typing import Any

from athanor.report.read import RunFiles, StageRun, is_number
from athanor.report.svg import Axes, Band, Point, Series, Text, bar_chart, line_chart, share_chart, smooth

STEPS: Text = ("optimizer steps, all stages in order", "优化步数（各阶段依次相接）")
RL_NOTE: Text = ("see reward", "见奖励曲线")
#: Names of a reward in RL metrics, the first that is there is drawn.
REWARD_KEYS = ("reward", "reward_mean", "mean_reward")


def offsets(stages: list[StageRun]) -> list[tuple[StageRun, float, float]]:
    """(stage, start, end) on one x axis of optimizer steps; a stage without lines has no width and is left out."""
    out, x = [], 0.0
    for stage in stages:
        if stage.lines:
            width = float(stage.lines[-1]["step"]) - float(stage.lines[0]["step"]) + 1
            out.append((stage, x, x + width))
            x += width
    return out


def bands(stages: list[StageRun], note_rl: bool = False) -> list[Band]:
    """The shaded stage ranges of the common x axis."""
    return [Band(s.name, a, b, RL_NOTE if note_rl and s.is_rl else None) for s, a, b in offsets(stages)]


def points(stage: StageRun, start: float, key: str, scale: float = 1.0) -> list[Point]:
    """(x, value) of one metric over one stage; values that are not finite are left out (and counted by the reader)."""
    first = float(stage.lines[0]["step"])
    return [(start + float(r["step"]) - first, float(r[key]) * scale) for r in stage.lines if is_number(r.get(key))]


def _over_stages(files: RunFiles, key: str, label: Text, color: int, skip_rl: bool = False) -> list[Series]:
    """One series a stage: the raw values faint, their moving mean on top."""
    out: list[Series] = []
    for stage, start, _ in offsets(files.stages):
        raw = points(stage, start, key)
        if not raw or (skip_rl and stage.is_rl):
            continue
        window = max(1, len(raw) // 40)
        if window > 2:
            out.append(Series(label, raw, color, faint=True))
            raw = smooth(raw, window)
        out.append(Series(label, raw, color))
    return out


def spike_marks(files: RunFiles) -> list[Point | float]:
    """x of every spike or restart event that names a step of a stage."""
    marks: list[Point | float] = []
    for stage, start, end in offsets(files.stages):
        first = float(stage.lines[0]["step"])
        for event in files.events:
            same = event.get("stage") in {stage.name, stage.dir.name}
            if same and event.get("kind") in {"spike", "restart"} and is_number(event.get("step")):
                x = start + float(event["step"]) - first
                if start <= x <= end:
                    marks.append(x)
    return marks


def loss_chart(files: RunFiles) -> str:
    """Training loss across stages; a policy-gradient loss is named, not drawn."""
    axes = Axes(("Training loss", "训练损失"), STEPS, ("loss, nats per token", "损失（nat/token）"))
    series = _over_stages(files, "loss", ("training loss", "训练损失"), 0, skip_rl=True)
    return line_chart(axes, series, bands(files.stages, note_rl=True), spike_marks(files))


def grad_norm_chart(files: RunFiles) -> str:
    """Gradient norm before clipping, logarithmic."""
    axes = Axes(
        ("Gradient norm before clipping", "裁剪前的梯度范数"), STEPS, ("L2 norm", "L2 范数"), log_y=True, height=240
    )
    return line_chart(axes, _over_stages(files, "grad_norm", ("gradient norm", "梯度范数"), 1), bands(files.stages))


def lr_chart(files: RunFiles) -> str:
    """Learning rate."""
    axes = Axes(("Learning rate", "学习率"), STEPS, ("learning rate", "学习率"), zero_y=True, height=220)
    series = [Series(("lr", "学习率"), points(s, a, "lr"), 2) for s, a, _ in offsets(files.stages)]
    return line_chart(axes, series, bands(files.stages))


def eval_series(files: RunFiles) -> dict[str, list[list[Point]]]:
    """Validation values by name: one run of points a stage, on the common x axis."""
    found: dict[str, list[list[Point]]] = {}
    for stage, start, _ in offsets(files.stages):
        first = float(stage.lines[0]["step"])
        here: dict[str, list[Point]] = {}
        for row in stage.evals:
            for name, value in row["eval"].items():
                if is_number(value) and is_number(row.get("step")):
                    here.setdefault(str(name), []).append(
                        (max(start, start + float(row["step"]) - first), float(value))
                    )
        for name, pts in here.items():
            found.setdefault(name, []).append(pts)
    return found


def eval_chart(files: RunFiles) -> str:
    """Validation loss by set."""
    axes = Axes(("Validation loss", "验证损失"), STEPS, ("loss, nats per token", "损失（nat/token）"))
    series: list[Series] = []
    for color, (name, runs) in enumerate(eval_series(files).items()):
        joined = [p for run in runs for p in run]
        series.append(Series((name, name), joined, color, dots=len(joined) <= 40))
    return line_chart(axes, series, bands(files.stages))


def reward_chart(files: RunFiles) -> str:
    """Reward over RL steps."""
    series, shown, x = [], [], 0.0
    for stage in files.stages:
        key = next((k for k in REWARD_KEYS if any(k in r for r in stage.lines)), None)
        if key is None:
            continue
        raw = points(stage, x, key)
        shown.append(Band(stage.name, x, x + len(stage.lines)))
        x += len(stage.lines)
        series.append(Series(("reward", "奖励"), raw, 3, faint=len(raw) > 8))
        if len(raw) > 8:
            series.append(Series(("moving mean", "滑动平均"), smooth(raw, 5), 3))
    axes = Axes(
        ("Reinforcement learning: mean reward", "强化学习：平均奖励"),
        ("RL steps", "RL 步数"),
        ("mean reward", "平均奖励"),
        height=260,
    )
    return line_chart(axes, series, shown)


def mixture_chart(files: RunFiles) -> str:
    """Share of each source by stage: the summary's, else each recipe's stages."""
    mixture = files.summary.get("mixture")
    if not isinstance(mixture, dict) or not mixture:
        mixture = {}
        for recipe in files.recipes.values():
            train = recipe.get("train") if isinstance(recipe.get("train"), dict) else recipe
            for stage in (train or {}).get("stages") or []:
                if isinstance(stage, dict) and stage.get("mixture"):
                    mixture[str(stage.get("name"))] = stage["mixture"]
    rows = [(str(n), _numbers(parts)) for n, parts in mixture.items() if isinstance(parts, dict)]
    return share_chart(("Mixture by stage, share of tokens", "各阶段数据配比（按 token 计）"), rows)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {str(k): float(v) for k, v in values.items() if is_number(v)}


def accuracies(files: RunFiles) -> dict[str, dict[str, float]]:
    """Exact match by post-training stage, as shares in [0, 1]: ``accuracy``, ``en``, ``zh`` and every kind."""
    found: dict[str, dict[str, float]] = {}
    evals = files.summary.get("eval")
    for stage, values in evals.items() if isinstance(evals, dict) else ():
        if isinstance(values, dict):
            flat = _numbers(values)
            for inner in values.values():
                if isinstance(inner, dict):
                    flat.update({k: v for k, v in _numbers(inner).items() if k not in flat})
            shares = {k: v for k, v in flat.items() if 0 <= v <= 1}
            if shares:
                found[str(stage)] = shares
    return found


def accuracy_chart(files: RunFiles, width: int = 940) -> str:
    """Exact match before and after each post-training stage, in per cent."""
    found = accuracies(files)
    bars: list[tuple[Text, list[float | None]]] = []
    for key, name in (("accuracy", ("all", "全部")), ("en", ("English", "英文")), ("zh", ("Chinese", "中文"))):
        values = [None if key not in v else round(100 * v[key], 1) for v in found.values()]
        if any(v is not None for v in values):
            bars.append((name, values))
    axes = Axes(
        ("Held-out questions answered exactly", "留出题目的精确匹配率"),
        ("after the stage", "阶段之后"),
        ("exact match, %", "精确匹配（%）"),
        width=width,
    )
    return bar_chart(axes, list(found), bars, 100.0)

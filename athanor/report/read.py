"""What a report knows about a run: files only (recipe.yaml, metrics.jsonl, events.jsonl, summary.json), never objects.

Nothing is dropped in silence: a line that cannot be read is counted in ``problems`` and the report shows it.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from athanor.errors import AthanorError
from athanor.report.svg import Text


@dataclass(slots=True)
class StageRun:
    """One band of the report: a stage of one run directory.

    ``lines`` are its training lines in step order, ``evals`` its evaluation lines, both as written. ``info`` is the
    entry of summary.json (``name, kind, dir, wall_s, peak_bytes, tokens``) where there is one.
    """

    name: str
    dir: Path
    kind: str = "train"
    lines: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def is_rl(self) -> bool:
        """Whether the loss is a policy-gradient surrogate, which no other loss can be compared with."""
        return self.kind in {"rl", "grpo", "ppo"} or any("reward" in line for line in self.lines[:1])

    def values(self, key: str) -> list[float]:
        """The finite numbers under ``key``, in step order."""
        return [float(line[key]) for line in self.lines if is_number(line.get(key))]

    def median(self, key: str) -> float | None:
        """Median of ``key`` over the stage; None without any value."""
        values = self.values(key)
        return statistics.median(values) if values else None

    @property
    def wall_s(self) -> float | None:
        """Seconds: what the summary says, else the sum of the steps."""
        if is_number(self.info.get("wall_s")):
            return float(self.info["wall_s"])
        return sum(self.values("step_s")) or None

    @property
    def peak_bytes(self) -> float | None:
        """Bytes: what the summary says, else the largest value in the metrics."""
        if is_number(self.info.get("peak_bytes")):
            return float(self.info["peak_bytes"])
        return max(self.values("peak_bytes"), default=0.0) or None

    @property
    def tokens(self) -> float | None:
        """Tokens trained on: what the summary says, else the span of the cumulative counter."""
        if is_number(self.info.get("tokens")):
            return float(self.info["tokens"])
        counts = self.values("tokens")
        if not counts:
            return None
        per_step = counts[1] - counts[0] if len(counts) > 1 else counts[0]
        return counts[-1] - counts[0] + per_step


@dataclass(slots=True)
class RunFiles:
    """Everything a report is drawn from."""

    root: Path
    summary: dict[str, Any] = field(default_factory=dict)
    stages: list[StageRun] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[Text] = field(default_factory=list)
    done: bool = False
    has_summary: bool = False


def is_number(value: Any) -> bool:
    """A finite int or float (not a bool)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_jsonl(path: Path, problems: list[Text]) -> list[dict[str, Any]]:
    """The objects of a jsonl file. Lines that are not JSON objects are counted into ``problems``; no file, no lines."""
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    bad: list[int] = []
    raw = path.read_bytes()
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad.append(number)
    if bad:
        shown = ", ".join(map(str, bad[:8])) + (" …" if len(bad) > 8 else "")
        where = f"{path.parent.name}/{path.name}"
        problems.append(
            (
                f"{where}: {len(bad)} unreadable line(s), left out (line {shown})",
                f"{where}：{len(bad)} 行无法读取，未计入（第 {shown} 行）",
            )
        )
    return rows


def _read_recipe(path: Path, problems: list[Text]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        recipe = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        recipe = None
    if isinstance(recipe, dict):
        return recipe
    problems.append((f"{path.name}: not a readable recipe", f"{path.name}：配方无法读取"))
    return {}


def _read_summary(path: Path, problems: list[Text]) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        summary = None
    if isinstance(summary, dict):
        return summary
    problems.append(
        (f"{path.name}: not readable; the stage folders were searched", f"{path.name} 无法读取；改为搜索各阶段目录")
    )
    return {}


def _train_lines(rows: list[dict[str, Any]], where: str, problems: list[Text]) -> list[dict[str, Any]]:
    """Training lines by (stage, step): a step written twice (killed, then resumed) counts once, the later one."""
    latest: dict[tuple[str, int], dict[str, Any]] = {}
    repeated = lost = nan = 0
    for row in rows:
        if not is_number(row.get("step")):
            lost += 1
            continue
        key = (str(row.get("stage", "")), int(row["step"]))
        repeated += key in latest
        latest.pop(key, None)
        latest[key] = row
        nan += "loss" in row and not is_number(row["loss"])
    if repeated:
        problems.append(
            (f"{where}: {repeated} step(s) run again after a restart", f"{where}：重启后重算 {repeated} 步")
        )
    if lost:
        problems.append((f"{where}: {lost} line(s) without a step", f"{where}：{lost} 行没有步数"))
    if nan:
        problems.append((f"{where}: {nan} loss value(s) are not finite", f"{where}：{nan} 个损失值不是有限数"))
    return sorted(latest.values(), key=lambda row: row["step"])


def _split(rows: list[dict[str, Any]], folder: Path, entries: list[dict[str, Any]], files: RunFiles) -> list[StageRun]:
    """The stages of one run directory. Several summary entries of one folder are told apart by the lines' ``stage``."""
    lines = _train_lines([r for r in rows if not isinstance(r.get("eval"), dict)], folder.name, files.problems)
    evals = [r for r in rows if isinstance(r.get("eval"), dict)]
    names = list(dict.fromkeys(str(r.get("stage") or "") for r in rows if not isinstance(r.get("eval"), dict))) or [""]
    if len(entries) == 1 and len(names) == 1:
        entry = entries[0]
        name = str(entry.get("name") or names[0] or folder.name)
        return [StageRun(name, folder, str(entry.get("kind", "train")), lines, evals, entry)]
    by_name = {str(e.get("name")): e for e in entries}
    one = entries[0] if len(entries) == 1 else {}
    order = [n for n in by_name if len(entries) > 1] + [n for n in names if n not in by_name or len(entries) == 1]
    stages = []
    for name in order:
        entry = by_name.get(name, {})
        kind = str(entry.get("kind") or one.get("kind") or "train")
        mine = [r for r in lines if str(r.get("stage") or "") == name]
        own_evals = [r for r in evals if str(r.get("stage") or "") == name]
        if mine or own_evals or entry:
            stages.append(StageRun(name or folder.name, folder, kind, mine, own_evals, entry))
    return stages or [StageRun(folder.name, folder)]


def _folders(root: Path, summary: dict[str, Any]) -> dict[Path, list[dict[str, Any]]]:
    """Run directories in order, each with its entries of the summary; without a summary, the folders that hold one."""
    found: dict[Path, list[dict[str, Any]]] = {}
    for entry in summary.get("stages") or []:
        if isinstance(entry, dict) and entry.get("dir"):
            path = Path(str(entry["dir"]))
            found.setdefault(path if path.is_absolute() else root / path, []).append(entry)
    if not found:
        marks = ("metrics.jsonl", "recipe.yaml", "events.jsonl")
        inner = [p for p in sorted(root.iterdir()) if p.is_dir() and any((p / m).is_file() for m in marks)]
        inner.sort(key=lambda p: (p / "recipe.yaml").stat().st_mtime if (p / "recipe.yaml").is_file() else math.inf)
        own = any((root / m).is_file() for m in marks)
        found = {p: [] for p in ([root] if own or not inner else inner)}
    return found


def read_run(root: Path) -> RunFiles:
    """Read a stage RunDir, or a folder of several with a ``summary.json``. Raises AthanorError for no folder."""
    root = Path(root)
    if not root.is_dir():
        raise AthanorError("no such run directory", where=str(root), fix="give the folder that a stage wrote")
    files = RunFiles(root)
    summary_path = root / "summary.json"
    files.has_summary = summary_path.is_file()
    if files.has_summary:
        files.summary = _read_summary(summary_path, files.problems)
    folders = _folders(root, files.summary)
    for folder, entries in folders.items():
        if not folder.is_dir():
            text = (f"{folder.name}: the stage's folder is missing", f"{folder.name}：缺少该阶段的目录")
            files.problems.append(text)
        rows = read_jsonl(folder / "metrics.jsonl", files.problems)
        files.stages += _split(rows, folder, entries, files)
        for event in read_jsonl(folder / "events.jsonl", files.problems):
            files.events.append({"stage": folder.name, **event})
        files.recipes[folder.name] = _read_recipe(folder / "recipe.yaml", files.problems)
    if root not in folders:
        files.events += read_jsonl(root / "events.jsonl", files.problems)
    files.events.sort(key=lambda e: e["time"] if is_number(e.get("time")) else 0.0)
    files.done = all((f / "DONE").exists() for f in folders) or (root / "DONE").exists()
    return files

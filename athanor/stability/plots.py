"""The laboratory's figures, drawn from result files alone (matplotlib, no display needed)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from athanor.stability.settings import LabSettings, parse_arch  # noqa: E402
from athanor.stability.summary import RunResult, cell_of  # noqa: E402

#: Colour-blind safe (Okabe & Ito), one per architecture in order of appearance.
COLORS = ("#D55E00", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#000000", "#7F7F7F")
SEED_STYLES = ("-", "--", ":", "-.")
NAMES = {"pre": "pre-norm", "sandwich": "sandwich", "depth_scaled_sandwich": "DSSN"}
_STYLE = {
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def title_of(label: str) -> str:
    """``DSSN (depth-scaled sandwich norm)`` is written ``DSSN`` in figures: ``DSSN + tiny``."""
    arch = parse_arch(label)
    return f"{NAMES[arch.placement]} + {arch.init}"


class Grid:
    """Results by architecture and learning rate, with the order and colours that every figure shares."""

    def __init__(self, results: Sequence[RunResult]) -> None:
        self.results = sorted(results, key=lambda r: r["cell"]["seed"])
        self.archs = list(dict.fromkeys(cell_of(r).arch for r in results))
        self.lrs = sorted({cell_of(r).lr for r in results})
        self.color = {arch: COLORS[i % len(COLORS)] for i, arch in enumerate(self.archs)}

    def at(self, arch: str, lr: float) -> list[RunResult]:
        """The runs of one cell of the figure, by seed."""
        return [r for r in self.results if r["cell"]["arch"] == arch and r["cell"]["lr"] == lr]


def _finite(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def _panels(
    rows: int, columns: int, height: float = 2.1, sharex: Literal["all", "row"] = "all"
) -> tuple[Figure, np.ndarray]:
    figure, axes = plt.subplots(
        rows,
        columns,
        layout="constrained",
        figsize=(3.5 * columns + 0.6, height * rows + 0.5),
        sharex=sharex,
        sharey="row",
        squeeze=False,
    )
    return figure, axes


def _series(grid: Grid, series: str, spikes: str, label: str, log: bool) -> Figure:
    """Architectures down, learning rates across; a line a seed, a triangle on every spike."""
    figure, axes = _panels(len(grid.archs), len(grid.lrs))
    values = np.concatenate([_finite(run[series]) for run in grid.results])
    low, high = np.nanpercentile(values, [0, 99.7])
    for i, arch in enumerate(grid.archs):
        for j, lr in enumerate(grid.lrs):
            ax, runs = axes[i, j], grid.at(arch, lr)
            for run in runs:
                seed = run["cell"]["seed"]
                y = _finite(run[series])
                ax.plot(y, SEED_STYLES[seed % 4], color=grid.color[arch], lw=0.9, label=f"seed {seed}")
                at = [spike["first"] for spike in run[spikes]]
                if at:
                    ax.plot(at, np.clip(y[at], low, high), "v", color="#B00020", ms=6, clip_on=False, zorder=5)
            count = sum(len(run[spikes]) for run in runs)
            ax.set_title(f"{title_of(arch)}, lr {lr:g}: {count} spike{'' if count == 1 else 's'}", fontsize=9)
            ax.set_ylim(low * 0.8 if log else low - 0.1, high * (1.6 if log else 1.0))
            if log:
                ax.set_yscale("log")
            if j == 0:
                ax.set_ylabel(label)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def _over_seeds(runs: Sequence[RunResult], key: str, moment: int) -> np.ndarray:
    """[seeds, layers] of a probe at one moment (index into the probed steps)."""
    return np.stack([_finite(run["probes"][key][moment]) for run in runs])


def _line(ax: Axes, y_SL: np.ndarray, color: str, label: str, style: str = "-") -> None:
    """Mean over seeds with the band from smallest to largest."""
    x = np.arange(1, y_SL.shape[1] + 1)
    ax.plot(x, y_SL.mean(0), style, color=color, lw=1.4, label=label)
    if len(y_SL) > 1:
        ax.fill_between(x, y_SL.min(0), y_SL.max(0), color=color, alpha=0.18, lw=0)


def _by_depth(grid: Grid, key: str, label: str) -> Figure:
    """Learning rates across; first row at the start, second at the end of training."""
    figure, axes = _panels(2, len(grid.lrs), 2.6)
    for i, (moment, when) in enumerate(((0, "before training"), (-1, "after the last step"))):
        for j, lr in enumerate(grid.lrs):
            for arch in grid.archs:
                if runs := [run for run in grid.at(arch, lr) if run["probes"].get(key)]:
                    _line(axes[i, j], _over_seeds(runs, key, moment), grid.color[arch], title_of(arch))
            axes[i, j].set_yscale("log")
            axes[i, j].set_title(f"lr {lr:g}, {when}", fontsize=9)
        axes[i, 0].set_ylabel(label)
    for ax in axes[-1]:
        ax.set_xlabel("block")
    axes[0, 0].legend(frameon=False, fontsize=7)
    return figure


def loss_figure(grid: Grid) -> Figure:
    """Training loss a step, loss spikes marked."""
    return _series(grid, "loss", "loss_spikes", "training loss, nats/byte", log=False)


def grad_figure(grid: Grid) -> Figure:
    """Global gradient norm before clipping a step, gradient spikes marked."""
    return _series(grid, "grad_norm", "grad_spikes", "gradient norm", log=True)


def residual_figure(grid: Grid) -> Figure:
    """RMS of the residual stream behind each block, at the start and at the end."""
    return _by_depth(grid, "residual", "RMS of the residual stream")


def update_figure(grid: Grid) -> Figure:
    """Update/weight ratio of the matrices of each block: early (end of warm-up or nearest probe) and at the end."""
    figure, axes = _panels(2, len(grid.lrs), 2.6, sharex="row")
    for j, lr in enumerate(grid.lrs):
        for arch in grid.archs:
            runs = grid.at(arch, lr)
            if not runs:
                continue
            ratio = np.stack([[_finite(at) for at in run["probes"]["update_ratio"]] for run in runs])
            axes[0, j].plot(
                runs[0]["probes"]["update_step"], np.median(ratio, axis=2).mean(0), color=grid.color[arch], lw=1.4
            )
            _line(axes[1, j], ratio[:, -1], grid.color[arch], title_of(arch))
        axes[0, j].set_title(f"lr {lr:g}: median block over steps", fontsize=9)
        axes[1, j].set_title(f"lr {lr:g}: by block, last probe", fontsize=9)
        for i, name in enumerate(("step", "block")):
            axes[i, j].set_yscale("log")
            axes[i, j].set_xlabel(name)
    for ax in axes[:, 0]:
        ax.set_ylabel("‖Δw‖ / ‖w‖ a step")
    axes[1, 0].legend(frameon=False, fontsize=7)
    return figure


def gains_figure(grid: Grid) -> Figure | None:
    """Post-norm gains by depth after training (first seed, mean and spread over channels), dotted: at the start."""
    shown = [
        arch
        for arch in grid.archs
        if any("attn_gain_mean" in r["probes"] for r in grid.results if r["cell"]["arch"] == arch)
    ]
    if not shown:
        return None
    figure, axes = _panels(2, len(grid.lrs), 2.6)
    for i, part in enumerate(("attn", "mlp")):
        for j, lr in enumerate(grid.lrs):
            for arch in shown:
                for run in grid.at(arch, lr)[:1]:
                    _gain_line(axes[i, j], run["probes"], part, grid.color[arch], title_of(arch))
            axes[i, j].set_yscale("symlog", linthresh=0.05)  # gains may turn negative
            axes[i, j].set_title(f"lr {lr:g}, behind {'attention' if part == 'attn' else 'feed-forward'}", fontsize=9)
        axes[i, 0].set_ylabel("gain, mean ± spread")
    for ax in axes[-1]:
        ax.set_xlabel("block")
    axes[0, 0].legend(frameon=False, fontsize=7)
    return figure


def _gain_line(ax: Axes, probes: dict[str, Any], part: str, color: str, label: str) -> None:
    mean, spread = (_finite(probes[f"{part}_gain_{what}"][-1]) for what in ("mean", "std"))
    x = np.arange(1, len(mean) + 1)
    ax.plot(x, mean, color=color, lw=1.4, label=label)
    ax.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.18, lw=0)
    ax.plot(x, _finite(probes[f"{part}_gain_mean"][0]), ":", color=color, lw=1)


FIGURES: dict[str, Callable[[Grid], Figure | None]] = {
    "loss": loss_figure,
    "grad-norm": grad_figure,
    "residual-rms": residual_figure,
    "post-norm-gains": gains_figure,
    "update-ratio": update_figure,
}


def draw(results: Sequence[RunResult], folder: Path, settings: LabSettings) -> dict[str, Path]:
    """Write ``stability-{name}.png`` for every figure that the results have data for; returns the paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    grid, paths = Grid(results), {}
    shape = f"{settings.layers} layers × {settings.width}, {settings.batch_rows * settings.seq_len} bytes a step"
    with matplotlib.rc_context(_STYLE):
        for name, make in FIGURES.items():
            figure = make(grid)
            if figure is None:
                continue
            figure.supxlabel(shape, fontsize=8, color="#666666")
            paths[name] = folder / f"stability-{name}.png"
            figure.savefig(paths[name], dpi=110)
            plt.close(figure)
    return paths

"""A tiny laboratory end to end: outputs, resume, determinism, other settings refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from athanor.errors import AthanorError
from athanor.stability import cell as cell_module
from athanor.stability.lab import run_lab
from athanor.stability.settings import LabSettings

TINY = LabSettings(
    layers=4,
    width=32,
    heads=2,
    steps=6,
    seq_len=16,
    batch_rows=2,
    warmup_steps=2,
    heldout_bytes=64,
    probe_every=4,
    compile=False,
)
ARCHS = ("pre+small", "dssn+tiny")
TIMES = ("cpu_s", "wall_s", "process_peak_bytes")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("text")
    files = [folder / f"{i}.py" for i in range(40)]
    for i, path in enumerate(files):
        path.write_text(f"def f{i}(x):\n    return x + {i}\n" * 8)
    return files


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, text: list[Path]) -> Path:
    """Two architectures at one rate, run in this process."""
    out = tmp_path_factory.mktemp("lab")
    run_lab(out, archs=ARCHS, lrs=[3e-3], seeds=1, jobs=0, settings=TINY, text=text, progress=False)
    return out


def runs(out: Path) -> dict[str, dict]:
    found = {path.name: json.loads(path.read_text()) for path in (out / "runs").glob("*.json")}
    return {name: {key: value for key, value in run.items() if key not in TIMES} for name, run in found.items()}


def test_every_output_is_there_and_agrees(lab: Path) -> None:
    found = runs(lab)
    assert sorted(found) == ["dssn+tiny-lr0.003-seed0.json", "pre+small-lr0.003-seed0.json"]
    results = json.loads((lab / "results.json").read_text())
    assert results["runs"] == 2 and [row["arch"] for row in results["rows"]] == list(ARCHS)
    for row in results["rows"]:
        run = found[f"{row['arch']}-lr0.003-seed0.json"]
        assert row["heldout_loss"] == [run["heldout_loss"]] and len(run["loss"]) == len(run["grad_norm"]) == 6
        assert run["probes"]["step"] == [0, 4, 6] and run["probes"]["update_step"] == [4, 6]
        assert len(run["probes"]["residual"][-1]) == len(run["probes"]["update_ratio"][-1]) == 4
        assert run["loss"][0] == pytest.approx(math.log(256), abs=1.0) and run["loss"][-1] < run["loss"][0]
    page = (lab / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5 and "http" not in page and "稳定性实验室" in page
    assert "| dssn+tiny | 0.003 |" in (lab / "table.md").read_text()


def test_gains_begin_at_c_over_sqrt_depth_and_move(lab: Path) -> None:
    probes = runs(lab)["dssn+tiny-lr0.003-seed0.json"]["probes"]
    assert probes["attn_gain_mean"][0] == pytest.approx([0.283 / 2] * 4)
    assert probes["mlp_gain_mean"][0] == pytest.approx([0.432 / 2] * 4)
    assert probes["attn_gain_std"][-1] != probes["attn_gain_std"][0]


def test_only_the_missing_run_is_repeated_with_the_same_bits(
    lab: Path, text: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = runs(lab)
    lost = "dssn+tiny-lr0.003-seed0.json"
    kept_mtime = (lab / "runs" / "pre+small-lr0.003-seed0.json").stat().st_mtime_ns
    (lab / "runs" / lost).unlink()
    (lab / "runs" / f".{lost}.1.tmp").write_text("{half a")  # what a kill leaves behind
    trained = []
    real = cell_module.train_cell
    monkeypatch.setattr(cell_module, "train_cell", lambda cell, *rest: trained.append(cell.name) or real(cell, *rest))
    threads = torch.get_num_threads()
    run_lab(lab, archs=ARCHS, lrs=[3e-3], seeds=1, jobs=0, settings=TINY, text=text, progress=False)
    assert trained == ["dssn+tiny-lr0.003-seed0"] and torch.get_num_threads() == threads
    assert runs(lab) == before
    assert (lab / "runs" / "pre+small-lr0.003-seed0.json").stat().st_mtime_ns == kept_mtime


def test_a_worker_process_gives_the_same_bits(lab: Path, text: list[Path], tmp_path: Path) -> None:
    run_lab(tmp_path, archs=["dssn+tiny"], lrs=[3e-3], seeds=1, jobs=2, settings=TINY, text=text, progress=False)
    name = "dssn+tiny-lr0.003-seed0.json"
    assert runs(tmp_path)[name] == runs(lab)[name]


def test_other_settings_are_refused_by_name(lab: Path, text: list[Path]) -> None:
    other = TINY.model_copy(update={"steps": 7})
    with pytest.raises(AthanorError, match="settings.steps: 6 → 7"):
        run_lab(lab, archs=ARCHS, lrs=[3e-3], seeds=1, jobs=0, settings=other, text=text, progress=False)


def test_a_damaged_result_is_named(text: list[Path], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "pre+small-lr0.003-seed0.json").write_text('{"key": ')
    with pytest.raises(AthanorError, match=r"pre\+small-lr0.003-seed0.json: is not a result"):
        run_lab(tmp_path, archs=ARCHS, lrs=[3e-3], seeds=1, jobs=0, settings=TINY, text=text, progress=False)


def test_an_impossible_shape_trains_nothing(text: list[Path], tmp_path: Path) -> None:
    bad = TINY.model_copy(update={"heads": 3})
    with pytest.raises(AthanorError, match="not a multiple"):
        run_lab(tmp_path / "lab", archs=ARCHS, lrs=[3e-3], seeds=1, jobs=0, settings=bad, text=text, progress=False)
    assert not (tmp_path / "lab").exists()

"""Predictions against published figures, some of which no constant was fitted to, and what a CSV may not say."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from athanor.cli import app
from athanor.errors import AthanorError
from athanor.plan.runs import COLUMNS, read_runs
from athanor.plan.tables import validation_json
from athanor.plan.validate import Validation, validate

FILE = Path(__file__).with_name("published_runs.csv")


@pytest.fixture(scope="module")
def found() -> Validation:
    return validate(read_runs(FILE))


def test_step_times_of_the_bar(found: Validation):
    words = ("2104.04473 Table 1", "2205.05198 Table 5", "Megatron-LM README")
    assert len(found.chosen(*words)) == 7
    assert found.mape(*words) < 0.06
    assert max(abs(row.error) for row in found.chosen(*words)) < 0.10


def test_a_single_block(found: Validation):
    rows = found.chosen("2205.05198 Table 4", primary=False)
    assert {row.run.quantity for row in rows} == {"layer_fwd_time", "layer_bwd_time"}
    assert max(abs(row.error) for row in rows) < 0.06


def test_peak_memory_of_the_bar(found: Validation):
    rows = found.chosen("SimuMax", kind="memory")
    assert len(rows) == 3
    assert max(abs(row.error) for row in rows) < 0.03


def test_runs_that_nothing_was_fitted_to(found: Validation):
    rows = found.chosen("2407.21783", "2211.05100")
    assert len(rows) == 4
    assert max(abs(row.error) for row in rows) < 0.08


def test_calculated_rows_and_rows_without_a_machine_are_not_predicted(found: Validation):
    told = {run.model: why for run, why in found.unusable}
    assert told == {"by formula": "ANALYTIC: not a measurement", "machine unknown": "not stated: gpus"}


def test_what_a_row_leaves_open_is_told(found: Validation):
    row = next(row for row in found.rows if row.run.model == "7.1B")
    assert "ffn 16384, kv_heads 32" in row.assumed
    assert any("picked" in text for text in row.assumed)


def _written(tmp_path: Path, change: dict[str, str], header: tuple[str, ...] = COLUMNS) -> Path:
    with FILE.open() as file:
        row = next(csv.DictReader(file)) | change
    path = tmp_path / "runs.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, header, extrasaction="ignore", restval="1")
        writer.writeheader()
        writer.writerow(row)
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [({"layers": "24.5"}, "layers"), ({"tp": "-1"}, "tp"), ({"value": "fast"}, "value"), ({"seq": "0"}, "seq")],
)
def test_a_field_that_is_no_number_is_named_with_its_line(tmp_path: Path, change: dict[str, str], told: str):
    with pytest.raises(AthanorError, match=rf"runs.csv:2: {told} is"):
        read_runs(_written(tmp_path, change))


def test_unknown_and_missing_columns_are_refused(tmp_path: Path):
    with pytest.raises(AthanorError, match="unknown column 'layer'.*\n.*did you mean 'layers'"):
        read_runs(_written(tmp_path, {}, (*COLUMNS, "layer")))
    with pytest.raises(AthanorError, match="columns are missing: note"):
        read_runs(_written(tmp_path, {}, COLUMNS[:-1]))
    with pytest.raises(AthanorError, match="no such CSV"):
        read_runs(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gpu_type": "TPU v4"}, "no cluster file"),
        ({"dp": "7"}, "tp·pp·dp·cp = 7, not 32"),
        ({"global_batch": "500"}, "do not divide"),
        ({"measured_quantity": "loss"}, "no such quantity"),
    ],
)
def test_a_row_that_cannot_be_taken_says_why(tmp_path: Path, change: dict[str, str], told: str):
    result = validate(read_runs(_written(tmp_path, change)))
    assert not result.rows and told in result.unusable[0][1]


def test_the_command_prints_the_table_and_refuses_bad_files(tmp_path: Path):
    runner = CliRunner()
    result = runner.invoke(app, ["plan", "validate", str(FILE)])
    assert result.exit_code == 0
    assert "GPT-39.1B 512" in result.output and "SimuMax B200: 3 runs" in result.output
    result = runner.invoke(app, ["plan", "validate", str(_written(tmp_path, {}, (*COLUMNS, "speed")))])
    assert result.exit_code == 2 and "unknown column 'speed'" in result.output


def test_a_layout_that_is_not_stated_is_picked(tmp_path: Path):
    stated = validate(read_runs(_written(tmp_path, {}))).rows[0]
    picked = validate(read_runs(_written(tmp_path, {"tp": "", "pp": "", "dp": ""}))).rows[0]
    assert "layout picked" in picked.assumed and "layout picked" not in stated.assumed
    assert picked.predicted >= stated.predicted  # the published layout is among those that it is picked from


def test_json_holds_every_row(found: Validation):
    told = validation_json(found)
    assert len(told["rows"]) + len(told["unusable"]) == len(read_runs(FILE))
    assert told["bars"]["time_mape"] == found.mape("2104.04473 Table 1", "2205.05198 Table 5", "Megatron-LM README")

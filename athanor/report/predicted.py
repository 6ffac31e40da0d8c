"""What the planner said before a run beside what the run took, stage by stage, from the run's files."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from athanor.report.read import RunFiles, StageRun, is_number


@dataclass(frozen=True, slots=True)
class Beside:
    """One stage. Seconds of a step: predicted, measured (median), and of these waiting for data; bytes at the peak."""

    stage: str
    cluster: str
    predicted_s: float
    measured_s: float
    data_s: float
    predicted_bytes: float | None
    measured_bytes: float | None
    interpolated: int  #: products whose shape had no measured point
    shapes: int  #: products in all

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured_s - 1

    @property
    def memory_error(self) -> float | None:
        """The same of the peak."""
        if not self.predicted_bytes or not self.measured_bytes:
            return None
        return self.predicted_bytes / self.measured_bytes - 1


def compare(files: RunFiles) -> list[Beside]:
    """Stages that have a prediction and at least two measured steps (the first one compiles and is left out). Of
    several predictions of a stage (a resumed run) the last counts."""
    said = {
        str(event["stage"]): event
        for event in files.events
        if event.get("kind") == "prediction" and is_number(event.get("step_s")) and event["step_s"] > 0
    }
    rows = []
    for stage in files.stages:
        event = said.get(_name(stage))
        lines = [line for line in stage.lines[1:] if is_number(line.get("step_s"))]
        if event is not None and lines:
            rows.append(_beside(stage, event, lines))
    return rows


def _name(stage: StageRun) -> str:
    """What the run itself calls the stage; a summary may call it otherwise."""
    return str(stage.lines[0].get("stage", stage.name)) if stage.lines else stage.name


def _beside(stage: StageRun, event: dict[str, Any], lines: list[dict[str, Any]]) -> Beside:
    hits, misses = (int(event[k]) if is_number(event.get(k)) else 0 for k in ("measured_shapes", "interpolated_shapes"))
    return Beside(
        stage=stage.name,
        cluster=str(event.get("cluster", "")),
        predicted_s=float(event["step_s"]),
        measured_s=statistics.median(float(line["step_s"]) for line in lines),
        data_s=statistics.median(float(line["data_s"]) if is_number(line.get("data_s")) else 0.0 for line in lines),
        predicted_bytes=float(event["peak_bytes"]) if is_number(event.get("peak_bytes")) else None,
        measured_bytes=max((float(x["peak_bytes"]) for x in lines if is_number(x.get("peak_bytes"))), default=None),
        interpolated=misses,
        shapes=hits + misses,
    )

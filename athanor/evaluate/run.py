"""``run_eval``: a model directory in, ``eval.json`` out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from athanor.align.sources import arithmetic_questions
from athanor.align.verifiers import arithmetic
from athanor.errors import AthanorError
from athanor.evaluate.loss import LossTask
from athanor.evaluate.tasks import QuestionTask, Task
from athanor.files import write_json
from athanor.inference.session import Speaker
from athanor.parallel.session import open_speaker
from athanor.ranks import is_main, world_size
from athanor.recipe.schema import Recipe

#: Word problems whose calculations occur in no training split, half of them Chinese.
ARITHMETIC = QuestionTask(
    "arithmetic", lambda recipe: arithmetic_questions(recipe.eval.questions, recipe.seed, "test"), arithmetic
)

#: The tasks a recipe can name; a benchmark adds itself here.
TASKS: dict[str, Task] = {"arithmetic": ARITHMETIC, "loss": LossTask()}


def run_eval(
    recipe: Recipe, model_dir: str | Path, out: str | Path, device: torch.device | str | None = None
) -> dict[str, Any]:
    """Run ``recipe.eval.tasks`` on a model directory; writes ``out/eval.json`` and returns its content.

    ``{"model", "seed", "tasks": {name: {"metrics", "samples", "seconds"}}}``. Raises AthanorError for an unknown task.
    In a launched group every rank calls it; the model is laid out by ``recipe.parallel`` and rank 0 writes.
    """
    for name in recipe.eval.tasks:
        if name not in TASKS:
            raise AthanorError(f"no task is called {name!r}", where="eval.tasks", fix=f"known: {', '.join(TASKS)}")
    # a process on its own needs no layout, whatever the recipe's training had
    launched = world_size() > 1
    speaker = open_speaker(recipe, model_dir, device) if launched else Speaker.open(model_dir, device=device)
    results: dict[str, Any] = {}
    for name in recipe.eval.tasks:
        began = time.perf_counter()
        result = TASKS[name].run(speaker, recipe)
        results[name] = {
            "metrics": result.metrics,
            "samples": result.samples,
            "seconds": time.perf_counter() - began,
        }
    report = {"model": str(model_dir), "seed": recipe.seed, "tasks": results}
    if is_main():
        write_json(Path(out) / "eval.json", report)
    return report

"""What the quickstart's report is drawn from: ``summary.json``, gathered from the files that the stages left."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from athanor.files import read_json, write_json
from athanor.recipe.schema import Recipe

#: What the person may want next: command, English, Chinese.
NEXT_STEPS = (
    ("athanor chat {out}/rl/model", "talk to the model", "与模型对话"),
    ("athanor quickstart --text YOUR_FOLDER --out runs/mine", "the same with your own texts", "加入你自己的文本"),
    ("athanor recipe show recipes/quickstart.yaml", "the recipe, every key resolved", "查看完整配方"),
    (
        "athanor export {out}/rl/model EXPORTED",
        "a Hugging Face directory (Glm4ForCausalLM)",
        "导出为 Hugging Face 格式",
    ),
    ("athanor lab stability", "why depth-scaled sandwich norm: the laboratory", "深度缩放三明治归一化的稳定性实验"),
)


def write_summary(recipe: Recipe, out: Path, wall_s: dict[str, float]) -> Path:
    """Write ``out/summary.json`` (format: docs/architecture.md, Report) and return its path."""
    evals = {name: read_json(out / f"eval-{name}" / "eval.json")["tasks"]["arithmetic"] for name in ("sft", "rl")}
    parameters = _parameters(out)
    shape = recipe.model.model_dump(exclude_defaults=True) if recipe.model is not None else {}
    summary = {
        "name": recipe.name,
        "wall_s": sum(wall_s.values()),
        "stage_wall_s": wall_s,
        "stages": _stages(recipe, wall_s),
        "mixture": {stage.name: stage.mixture for stage in recipe.train.stages},
        "eval": {name: _accuracies(result["metrics"]) for name, result in evals.items()},
        "samples": _samples(evals),
        "conversation": read_json(out / "conversation.json"),
        "corpus": _corpus(out),
        "tokenizer": {"vocab_size": recipe.tokenizer.vocab_size, "kind": "byte-level BPE"},
        "model": {"params": parameters, **shape},
        "environment": {
            "python": platform.python_version(),
            "torch": _version("torch"),
            "cores": os.cpu_count(),
            "machine": platform.machine(),
        },
        "next_steps": [{"command": c.format(out=out), "en": en, "zh": zh} for c, en, zh in NEXT_STEPS],
    }
    write_json(out / "summary.json", summary)
    return out / "summary.json"


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _parameters(out: Path) -> int:
    from athanor.model.hf import read_config
    from athanor.model.params import count_params

    return count_params(read_config(out / "rl" / "model"))


def _stages(recipe: Recipe, wall_s: dict[str, float]) -> list[dict[str, Any]]:
    """Pre-training stages share one run; their own times come from its metrics lines."""
    pretrain = [{"name": stage.name, "kind": "pretrain", "dir": "pretrain"} for stage in recipe.train.stages]
    post = [{"name": name, "kind": name, "dir": name, "wall_s": wall_s.get(name, 0.0)} for name in ("sft", "rl")]
    return pretrain + post


def _accuracies(metrics: dict[str, float]) -> dict[str, Any]:
    parts = {name.removeprefix("accuracy."): value for name, value in metrics.items() if name.startswith("accuracy.")}
    languages: dict[str, Any] = {name: parts.pop(name) for name in ("en", "zh") if name in parts}
    return {"accuracy": metrics["accuracy"], **languages, "by_kind": parts}


def _samples(evals: dict[str, Any]) -> list[dict[str, Any]]:
    """The same questions answered after each stage."""
    rows: dict[str, dict[str, Any]] = {}
    for stage, result in evals.items():
        for sample in result["samples"]:
            row = rows.setdefault(
                sample["question"],
                {"question": sample["question"], "expected": sample["expected"], "answers": {}, "correct": {}},
            )
            row["answers"][stage] = sample["said"]
            row["correct"][stage] = sample["score"] >= 1
    return list(rows.values())


def _corpus(out: Path) -> dict[str, Any]:
    """Documents and bytes of each source, in and out."""
    report = read_json(out / "corpus" / "report.json")
    return {
        name: {
            "documents_train": count["out"]["train"]["documents"],
            "documents_valid": count["out"]["valid"]["documents"],
            "bytes_train": count["out"]["train"].get("bytes", 0),
        }
        for name, count in report["sources"].items()
    }

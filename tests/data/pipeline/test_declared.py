"""What a document says of itself stays beside what is measured of it, over builds of builds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from athanor.data.build import build_corpus
from athanor.recipe.schema import Recipe

QUALITY = {"step": "quality", "examples": 60}


def _built(folder: Path, out: Path, *steps: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cached = [{**step, "cache_dir": str(out.parent / "models")} for step in steps]
    sources = {"web": {"paths": [str(folder)], "holdout": 0}}
    recipe = Recipe.model_validate({"data": {"sources": sources, "steps": cached, "workers": 1}})
    return {document.text: document.meta for document in build_corpus(recipe, out).documents("web", "train")}


def test_a_task_keeps_the_difficulty_it_was_written_for(tmp_path: Path) -> None:
    folder, again = tmp_path / "in", tmp_path / "again"
    folder.mkdir()
    again.mkdir()
    rows = [{"text": f"Work out the sum of {n} and {n * n}. It is {n + n * n}."} for n in range(6)]
    rows[1]["meta"] = {"difficulty": 5, "knowledge_point": "math.sum"}  # type: ignore[assignment]
    rows[2]["meta"] = {"difficulty": 1}  # type: ignore[assignment]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first = _built(folder, tmp_path / "first", QUALITY)
    said = [first[str(row["text"])] for row in rows]
    assert [meta.get("declared_difficulty") for meta in said] == [None, 5, 1, None, None, None]
    assert all(0 <= meta["difficulty"] <= 1 and "declared_weight" not in meta for meta in said)
    assert said[1]["knowledge_point"] == "math.sum"
    lines = [json.dumps({"text": text, "meta": meta}) + "\n" for text, meta in first.items()]
    (again / "b.jsonl").write_text("".join(lines), encoding="utf-8")
    second = _built(again, tmp_path / "second", QUALITY)
    assert second[str(rows[1]["text"])]["declared_difficulty"] == 5
    assert second[str(rows[2]["text"])]["declared_difficulty"] == 1

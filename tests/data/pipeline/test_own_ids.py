"""Ids that rows bring along: repeated ones are counted and shown, and no document is lost for them."""

from __future__ import annotations

import json
from pathlib import Path

from athanor.data.build import build_corpus
from athanor.recipe.schema import Recipe


def test_repeated_ids_are_counted_across_files_and_shown(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rows = [{"text": f"a text of its own, number {n}", "id": own} for n, own in enumerate(["a", "b", "a", 7, "7"])]
    rows.append({"text": "a text without an id"})
    for number, row in enumerate(rows):  # two files, both ids of a pair in different ones
        with open(folder / f"{number % 2}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    with open(folder / "1.jsonl", "a", encoding="utf-8") as file:
        file.write('{"text": "an id that is no text", "id": "\\ud800"}\n')
    steps, sources = [{"step": "length"}], {"web": {"paths": [str(folder)], "holdout": 0}}
    recipe = Recipe.model_validate({"data": {"sources": sources, "steps": steps, "workers": 1, "part_bytes": 50}})
    corpus = build_corpus(recipe, tmp_path / "out")
    source = corpus.report["sources"]["web"]
    assert source["read"]["own_ids"] == {"documents": 6, "repeated": 2, "examples": ["7", "a"]}
    assert corpus.count("web", "train") == 7
    assert "2 of 6 documents" in source["notes"][0]
    assert "2 of 6 documents" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")

"""Steps tried on files: they know of each document what a build would tell them."""

from __future__ import annotations

import json
from pathlib import Path

from athanor.data.build import build_corpus
from athanor.data.pipeline.trial import try_files
from athanor.recipe.schema import Recipe

CODE = "function walk(tree) {\n  const names = [];\n  for (const n of tree) names.push(n.name);\n  return names;\n}\n"
STEPS = [
    {"step": "code"},
    {"step": "length", "min_chars": 10},
    {"step": "exact_dedup", "by": ["url"], "keep": "quality", "quality": "length.n_chars"},
]


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    (folder / "node_modules").mkdir(parents=True)
    (folder / "a.js").write_text(CODE)
    (folder / "node_modules" / "b.js").write_text(CODE.replace("walk", "climb"))
    page = "http://www.example.org/page/?utm_source=x#top"
    rows = [
        {"text": "one form of the page", "url": page},
        {"text": "another form of it", "url": "https://example.org/page"},
    ]
    (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_trial_and_a_build_say_the_same(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    data = {"sources": {"web": {"paths": [str(folder)]}}, "steps": STEPS, "workers": 1}
    recipe = Recipe.model_validate({"data": data})
    journeys = {journey.id: journey for journey in try_files(folder, recipe, 10)}
    reasons = {name: [v.reason for v in journey.visits if v.reason] for name, journey in journeys.items()}
    assert reasons["repo/node_modules/b.js"] == ["vendored code: node_modules"]
    assert reasons["repo/pages.jsonl#2"][0].startswith("same URL")
    assert reasons["repo/a.js"] == reasons["repo/pages.jsonl#1"] == []
    built = build_corpus(recipe, tmp_path / "out")
    kept = {document.meta["origin"] for document in built.documents("web", "train")}
    assert kept == {"repo/a.js", "repo/pages.jsonl#1"}

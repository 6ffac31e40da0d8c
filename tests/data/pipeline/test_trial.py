"""Steps tried on files: they know of each document what a build would tell them."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from athanor.cli import app
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


def test_the_way_of_a_document_shows_no_keys_of_comparisons(tmp_path: Path) -> None:
    words = [f"word{i * i}" for i in range(300)]
    texts = [" ".join(words), " ".join(["other", *words[1:]]), " ".join(words[::-1])]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "exam.jsonl").write_text(json.dumps({"question": " ".join(words[299:259:-1])}) + "\n")
    (tmp_path / "list.txt").write_text("nothing\n")
    steps = [
        {"step": "exact_dedup", "by": ["document", "url", "paragraph"]},
        {"step": "minhash"},
        {"step": "substring_dedup"},
        {"step": "toxicity", "lists": {"any": str(tmp_path / "list.txt")}},
        {"step": "decontaminate", "sets": [str(tmp_path / "sets")], "cache": str(tmp_path / "cache")},
    ]
    data = {"sources": {"a": {"paths": [str(tmp_path / "in")]}}, "steps": steps, "workers": 1}
    recipe = Recipe.model_validate({"data": data})
    build_corpus(recipe, tmp_path / "out")
    recipe_file = tmp_path / "r.yaml"
    recipe_file.write_text(json.dumps({"data": data}))
    names: dict[str, list[str]] = {}
    for arguments in (
        ["data", "inspect", str(tmp_path / "out"), "--id", "in/rows.jsonl#3"],
        ["data", "inspect", str(tmp_path / "in"), "--recipe", str(recipe_file)],
    ):
        found = CliRunner().invoke(app, [*arguments, "--json"])
        assert found.exit_code == 0, found.output
        assert "NaN" not in found.output
        last = json.loads(found.output)[-1]
        names = {visit["step"]: list(visit["measures"]) for visit in last["visits"]}
        assert names == {
            "exact_dedup": ["cuts"],
            "minhash": ["cluster_size"],
            "substring_dedup": ["cuts"],
            "toxicity": ["terms", "words", "score"],
            "decontaminate": ["matches", "share", "begin", "end", "contaminated"],
        }
        assert last["visits"][3]["measures"]["score"] is None
        shown = CliRunner().invoke(app, arguments).output.splitlines()
        assert any(line == "  minhash: kept  [cluster_size=1]" for line in shown)
        assert any(line.startswith("  decontaminate: dropped: contaminated: exam item 0") for line in shown)
        assert any(line.startswith("  toxicity: kept  [terms=0, words=300]") for line in shown)
        assert not any("[]" in line for line in shown)

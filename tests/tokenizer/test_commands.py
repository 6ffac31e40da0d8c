"""``athanor tokenizer`` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from athanor.cli import app
from athanor.tokenizer import Tokenizer, train_tokenizer
from athanor.tokenizer.inspection import _is_held
from athanor.tokenizer.methods import METHODS, unreachable

SPECIFIC = {
    "prose": ["The old lighthouse keeper counted the ships that passed, number {}. ", "general", "en"],
    "chinese": ["今天天气很好，我们去公园散步，看见第{}只鸟。\n", "general", "zh"],
    "code": ["def step_{0}(self, value):\n    return self.total + value * {0}\n\n", "code", "en"],
}


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 2, result.output
    return result.output


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    sources = {}
    for name, (line, domain, language) in SPECIFIC.items():
        rows = [json.dumps({"text": "".join(line.format(i * 30 + k) for k in range(30))}) for i in range(40)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
        paths = [str(folder / f"{name}.jsonl")]
        sources[name] = {"paths": paths, "domain": domain, "language": language, "holdout": 0.2}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"tokenizer": {"vocab_size": 340, "reserved": 4}, "data": {"sources": sources}}))
    return file


@pytest.fixture(scope="module")
def trained(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    run("tokenizer", "train", recipe, "--out", out)
    return out


def test_train_reports_domains_classes_and_methods(recipe: Path, trained: Path) -> None:
    tokenizer = Tokenizer.load(trained / "tokenizer")
    assert tokenizer.vocab_size == 340 and unreachable(tokenizer) == []
    report = json.loads((trained / "tokenizer" / "report.json").read_text())
    assert set(report["tokenizers"]) == set(METHODS) and report["baseline"] == "natural"
    assert set(report["natural_bytes"]) == {"general/en", "general/zh", "code"}
    assert report["natural_bytes"] == report["counted_bytes"]
    assert sum(report["classes"].values()) == 340 and report["unreachable"] == 0
    assert "held-out" in report["measured_on"]
    text = (trained / "tokenizer" / "report.txt").read_text()
    assert "340 tokens by union, 0 unreachable" in text and "general/zh" in text
    assert "<svg" in (trained / "tokenizer" / "report.html").read_text()
    before = (trained / "tokenizer" / "tokenizer.json").read_bytes()
    run("tokenizer", "train", recipe, "--out", trained)  # done already
    assert (trained / "tokenizer" / "tokenizer.json").read_bytes() == before


def test_joint_is_the_trainer_of_tokenizers_on_the_same_texts(recipe: Path, tmp_path: Path) -> None:
    out = run("tokenizer", "train", recipe, "tokenizer.method=joint", "tokenizer.reserved=0", "--out", tmp_path)
    assert "tokenizer in" in out and not (tmp_path / "tokenizer" / "report.json").exists()
    from athanor.data.build import CorpusDir

    corpus = CorpusDir.open(tmp_path / "corpus")
    texts = [document.text for source in corpus.sources for document in corpus.documents(source, "train")]
    assert Tokenizer.load(tmp_path / "tokenizer").fingerprint == train_tokenizer(texts, 340).fingerprint


def test_a_corpus_that_is_too_small_names_the_size(recipe: Path, tmp_path: Path) -> None:
    out = refused("tokenizer", "train", recipe, "tokenizer.vocab_size=50000", "--out", tmp_path)
    assert "50000 were asked for" in out and "set tokenizer.vocab_size=" in out


def test_inspect(trained: Path, tmp_path: Path) -> None:
    out = run(
        "tokenizer", "inspect", trained / "tokenizer", "--text", "def f(12): 天气𝒳\n", "--json", tmp_path / "i.json"
    )
    assert "340 tokens" in out and "<|reserved_3|> 9" in out and "digits: single/end" in out and "unreachable: 0" in out
    line = next(line for line in out.splitlines() if "│" in line)
    tokenizer = Tokenizer.load(trained / "tokenizer")
    ids = tokenizer.encode("def f(12): 天气𝒳\n")
    assert line.count("│") == len(ids) - 1 and "1│2" in line and "⏎" in line and "<" in line
    assert " ".join(map(str, ids)) in out
    result = json.loads((tmp_path / "i.json").read_text())
    lengths = [len(tokenizer.token_bytes[int(i)]) for i in result["longest"]]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] == max(map(len, tokenizer.token_bytes[10:]))


def test_inspect_finds_tokens_that_cannot_be_reached(tmp_path: Path) -> None:
    """Two lists of merges laid end to end: the second's tokens are out of reach."""
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 3, 270)
    state = json.loads(tokenizer.backend.to_str())
    ids = state["model"]["vocab"]
    size = len(ids)
    for number, (a, b) in enumerate([("h", "e"), ("t", "he")]):  # "th" is merged before "he"
        if a + b not in ids:
            ids[a + b] = size + number
        state["model"]["merges"].append([a, b])
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    broken = Tokenizer.load(tmp_path)
    lost = unreachable(broken)
    expected = [
        i
        for token, i in broken.backend.get_vocab().items()
        if i > 5 and [t.id for t in broken.backend.model.tokenize(token)] != [i]
    ]
    assert lost == sorted(expected)
    out = run("tokenizer", "inspect", tmp_path)
    assert f"unreachable: {len(lost)}" in out


@pytest.mark.parametrize("baseline", ["natural", "union"])
def test_compare(trained: Path, recipe: Path, tmp_path: Path, baseline: str) -> None:
    run("tokenizer", "train", recipe, "tokenizer.method=natural", "--out", tmp_path / "nat")
    folders = [trained / "tokenizer", tmp_path / "nat" / "tokenizer"]
    chosen = "natural" if baseline == "natural" else str(folders[0])
    data = [
        "--data",
        f"code/en={recipe.parent / 'code.jsonl'}",
        "--data",
        f"general/zh={recipe.parent / 'chinese.jsonl'}",
    ]
    files = ["--json", tmp_path / "c.json", "--out", tmp_path / "c.html"]
    out = run("tokenizer", "compare", *folders, *data, "--baseline", chosen, *files)
    result = json.loads((tmp_path / "c.json").read_text())
    names = [trained.name, "nat", *(["natural"] if baseline == "natural" else [])]
    assert list(result["tokenizers"]) == names and set(result["tokenizers"]["nat"]["domain"]) == {"code", "general/zh"}
    assert result["baseline"] == ("natural" if baseline == "natural" else trained.name)
    assert "tokens/word" in out and "<svg" in (tmp_path / "c.html").read_text()
    corpus = run("tokenizer", "compare", folders[0], "--data", trained)
    assert "general/en" in corpus and "general/zh" in corpus


@pytest.mark.parametrize(
    ("words", "what"),
    [(["--data", "nowhere"], "nowhere"), ([], "--data"), (["--data", "{code}", "--baseline", "other"], "no baseline")],
)
def test_compare_says_what_is_wrong(trained: Path, recipe: Path, words: list[str], what: str) -> None:
    words = [word.format(code=recipe.parent / "code.jsonl") for word in words]
    assert what in refused("tokenizer", "compare", trained / "tokenizer", *words)


def test_a_domain_of_one_document_is_named_where_the_baseline_leaves_nothing_to_measure(
    recipe: Path, trained: Path
) -> None:
    lone = next(
        file
        for n in range(99)
        if (file := _written(recipe.parent / "lone.txt", f"All parties agree on clause {n}.\n" * 40))
        and not _is_held(file.read_text())
    )
    names = ("code", "chinese", "prose")
    data = [word for name in names for word in ("--data", f"{name}={recipe.parent / name}.jsonl")]
    data += ["--data", f"law={lone}"]
    said = " ".join(run("tokenizer", "compare", trained / "tokenizer", *data, "--baseline", "natural").split())
    assert "; not on law: too few documents to hold one out" in said
    said = " ".join(run("tokenizer", "compare", trained / "tokenizer", *data).split())
    assert "not on" not in said and " law " in said


def test_what_compare_names_is_the_domain_whatever_rows_say(trained: Path, tmp_path: Path) -> None:
    rows = [{"text": f"A line of text, number {n}.", "domain": "news", "language": "en"} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("general", "mine"):
        out = tmp_path / "figures.json"
        run("tokenizer", "compare", trained / "tokenizer", "--data", f"{name}={tmp_path / 'rows.jsonl'}", "--json", out)
        said = out.read_text()
        assert "news" not in said and ("general/en" if name == "general" else "mine") in said


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path

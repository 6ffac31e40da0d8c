"""The whole line at a toy size: every stage runs, the report opens, a second run says it is done."""

import json
import re
from pathlib import Path

import pytest

from athanor.data.arithmetic import split_of
from athanor.errors import AthanorError
from athanor.quickstart import run_quickstart
from athanor.quickstart.run import CONVERSATION, quickstart_recipe

TOY = [
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.num_hidden_layers=2",
    "model.num_attention_heads=2",
    "model.num_key_value_heads=2",
    "model.vocab_size=400",
    "tokenizer.vocab_size=400",
    "data.sources.code.kind=files",
    "data.sources.code.options={}",
    "data.sources.prose.kind=files",
    "data.sources.prose.options={}",
    "data.sources.prose.holdout=0",
    "data.sources.code.holdout=0.3",
    "data.sources.arithmetic.documents=300",
    "train.seq_len=128",
    "train.global_batch_tokens=512",
    "train.eval_tokens=1024",
    "train.compile=false",
    *(f"train.stages.{i}.steps=2" for i in range(3)),
    "sft.sources.math.documents=100",
    "sft.sources.math.holdout=0.1",
    "sft.train.seq_len=128",
    "sft.train.global_batch_tokens=512",
    "sft.train.steps=2",
    "sft.train.compile=false",
    "rl.sources.math.documents=40",
    "rl.prompts_per_step=2",
    "rl.group_size=2",
    "rl.max_new_tokens=8",
    "rl.train.seq_len=128",
    "rl.train.global_batch_tokens=512",
    "rl.train.steps=2",
    "eval.questions=8",
    "eval.max_new_tokens=8",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quickstart")
    for name in ("code", "prose"):
        (root / name).mkdir()
        for i in range(12):
            (root / name / f"{i}.txt").write_text(f"{name} {i}: " + "the quick brown fox jumps, 快速的狐狸。\n" * 40)
    (root / "mine.md").write_text("# 我的笔记\n\nA note of my own, long enough to be kept.\n" * 20)
    return root


def toy(folder: Path) -> list[str]:
    return [*TOY, f"data.sources.code.paths=[{folder / 'code'}]", f"data.sources.prose.paths=[{folder / 'prose'}]"]


def test_every_stage_runs_and_the_second_run_is_done(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "run"
    model = run_quickstart(text=[folder / "mine.md"], out=out, overrides=toy(folder))
    assert (model / "config.json").is_file() and (model / "tokenizer.json").is_file()
    assert json.loads((model / "config.json").read_text())["architectures"] == ["Glm4ForCausalLM"]
    summary = json.loads((out / "summary.json").read_text())
    assert [s["name"] for s in summary["stages"]] == ["general", "reasoning", "annealing", "sft", "rl"]
    assert set(summary["eval"]) == {"sft", "rl"} and set(summary["eval"]["rl"]) >= {"accuracy", "en", "zh", "by_kind"}
    assert len(summary["conversation"]) == 6
    assert summary["mixture"]["general"]["own"] == pytest.approx(0.2)
    assert summary["corpus"]["own"]["documents_train"] + summary["corpus"]["own"]["documents_valid"] == 1
    page = (out / "report.html").read_text()
    assert "<svg" in page and "http://" not in page.replace("http://www.w3.org", "")
    before = (out / "report.html").stat().st_mtime_ns
    capsys.readouterr()
    assert run_quickstart(text=[folder / "mine.md"], out=out, overrides=toy(folder)) == model
    assert "done already" in capsys.readouterr().out
    assert (out / "report.html").stat().st_mtime_ns == before

    with pytest.raises(AthanorError, match="another recipe"):
        run_quickstart(out=out, overrides=toy(folder))


def test_a_text_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AthanorError, match="no such file"):
        run_quickstart(text=[tmp_path / "nothing"], out=tmp_path / "run")


def test_the_recipe_is_the_one_that_is_shown() -> None:
    """recipes/quickstart.yaml is a starting point for one's own; it says the same as the built-in recipe."""
    from athanor.recipe import load

    shown = load(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")
    assert shown == quickstart_recipe()
    for stage in shown.train.stages:
        assert sum(stage.mixture.values()) == pytest.approx(1)


def test_the_readmes_show_the_conversation_and_it_is_held_out() -> None:
    """What a newcomer reads is what the quickstart asks, and none of it was in any training split."""
    root = Path(__file__).parents[2]
    for question, key in zip(CONVERSATION, ("gather:6,4,8", "add_take:17,3,4", "change:6,5,7"), strict=True):
        assert question in (root / "README.md").read_text() and question in (root / "README.zh.md").read_text()
        assert split_of(key) == "test"
        numbers = re.findall(r"\d+", key)
        assert key.startswith("change") or all(n in question for n in numbers)

"""The quickstart: corpus → tokenizer → three pre-training stages → SFT → RL → evaluation → talk → report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import typer

from athanor.errors import AthanorError
from athanor.files import read_json, write_json
from athanor.quickstart.summary import write_summary
from athanor.recipe import load
from athanor.recipe.schema import Recipe, SourceRecipe

T = TypeVar("T")

#: Share of the training rows that the person's own texts take from the other sources, in every stage.
TEXT_SHARE = 0.2
#: What the short conversation asks: these very words are on the README's first screen.
CONVERSATION = (
    "There are 6 bags of 4 cards. Ben adds 8 cards. How many cards are there in all?",
    "小明原来有17个卡片，又得到3个，送出4个。小明现在有多少个卡片？",
    "6 tickets cost 5 dollars each. Grace pays with 37 dollars. How much change is due?",
)


def quickstart_recipe(text: Sequence[str | Path] = (), overrides: Iterable[str] = ()) -> Recipe:
    """The quickstart's recipe; ``text`` adds the source ``own`` to every stage's mixture."""
    with resources.as_file(resources.files("athanor.quickstart").joinpath("recipe.yaml")) as path:
        recipe = load(path, list(overrides))
    if not text:
        return recipe
    for name in text:
        if not Path(name).exists():
            raise AthanorError("no such file or folder", where=f"--text {name}", fix="give a path that exists")
    own = SourceRecipe(paths=[str(Path(p).resolve()) for p in text], domain="own", holdout=0.05)
    tree = recipe.model_dump(mode="python")
    tree["data"]["sources"]["own"] = own.model_dump()
    for stage in tree["train"]["stages"]:
        stage["mixture"] = {k: w * (1 - TEXT_SHARE) for k, w in stage["mixture"].items()} | {"own": TEXT_SHARE}
    return Recipe.model_validate(tree)


def run_quickstart(
    text: Sequence[str | Path] = (), out: str | Path = "runs/quickstart", overrides: Iterable[str] = ()
) -> Path:
    """Run every stage that is not done yet, then write ``summary.json``, ``report.html`` and ``model`` in ``out``.

    Returns the model directory. Killed at any point, the same command goes on where it was; when all is done it says
    so. Raises AthanorError when ``out`` holds the run of another recipe.
    """
    from athanor.align.grpo import run_rl
    from athanor.align.sft import run_sft
    from athanor.data.build import build_corpus, tokenize_corpus, train_tokenizer_from_corpus
    from athanor.report.html import write_report
    from athanor.train.progress import say
    from athanor.train.stage import run_pretrain

    out = Path(out)
    recipe = quickstart_recipe(text, overrides)
    line = _Line(out, recipe)
    if line.finished:
        typer.echo(f"done already: {out / 'report.html'}\ntalk to it: athanor chat {out / 'rl' / 'model'}")
        return out / "rl" / "model"
    corpus = line.stage("corpus", lambda: build_corpus(recipe, out / "corpus", say=say))
    tokenizer = line.stage("tokenizer", lambda: train_tokenizer_from_corpus(recipe, corpus, out / "tokenizer", say=say))
    line.stage("tokens", lambda: tokenize_corpus(corpus, tokenizer, out / "tokens", say=say))
    base = line.stage(
        "pretrain",
        lambda: run_pretrain(
            recipe,
            out / "pretrain",
            corpus_dir=out / "corpus",
            tokenizer_dir=out / "tokenizer",
            data_dir=out / "tokens",
        ),
    )
    tuned = line.stage("sft", lambda: run_sft(recipe, base, out / "sft"))
    line.stage("eval-sft", lambda: _evaluate(recipe, tuned, out / "eval-sft"))
    final = line.stage("rl", lambda: run_rl(recipe, tuned, out / "rl"))
    line.stage("eval-rl", lambda: _evaluate(recipe, final, out / "eval-rl"))
    line.stage("talk", lambda: _talk(final, out))
    write_summary(recipe, out, line.wall_s)
    page = write_report(out)
    line.finish()
    typer.echo(f"\nreport:     {page}\ntalk to it: athanor chat {final}")
    return final


class _Line:
    """The order of stages with their times, kept in ``progress.json`` so that a resumed run knows them all."""

    TITLES = {
        "corpus": "corpus · 语料",
        "tokenizer": "tokenizer · 分词器",
        "tokens": "token shards · 词元分片",
        "pretrain": "pre-training: general → reasoning → annealing · 预训练：通用 → 推理 → 退火",
        "sft": "supervised fine-tuning · 监督微调",
        "eval-sft": "evaluation after SFT · 微调后评测",
        "rl": "reinforcement learning (GRPO) · 强化学习",
        "eval-rl": "evaluation after RL · 强化学习后评测",
        "talk": "a short conversation · 简短对话",
    }

    def __init__(self, out: Path, recipe: Recipe) -> None:
        self.path, self.recipe = out / "progress.json", recipe.model_dump(mode="json")
        state = read_json(self.path) if self.path.is_file() else {}
        if state and state["recipe"] != self.recipe:
            raise AthanorError(
                "this directory holds a quickstart of another recipe or with other --text files",
                where=str(out),
                fix="give another --out, or the same arguments as before to go on",
            )
        self.wall_s: dict[str, float] = state.get("wall_s", {})
        self.finished: bool = state.get("finished", False)
        self._done = 0
        self._save()

    def stage(self, name: str, run: Callable[[], T]) -> T:
        """Announce, run, and add the time to what an earlier, interrupted run of the stage took."""
        self._done += 1
        typer.secho(f"\n[{self._done}/{len(self.TITLES)}] {self.TITLES[name]}", bold=True, err=True)
        began = time.monotonic()
        try:
            return run()
        finally:
            self.wall_s[name] = self.wall_s.get(name, 0.0) + time.monotonic() - began
            self._save()

    def finish(self) -> None:
        self.finished = True
        self._save()

    def _save(self) -> None:
        state = {"recipe": self.recipe, "wall_s": self.wall_s, "finished": self.finished}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, state)


def _evaluate(recipe: Recipe, model_dir: Path, out: Path) -> dict[str, Any]:
    """Exact match on the test split, kept in ``out/eval.json``; printed by language."""
    from athanor.evaluate.run import run_eval

    done = out / "eval.json"
    report = read_json(done) if done.is_file() else run_eval(recipe, model_dir, out)
    for name, value in report["tasks"]["arithmetic"]["metrics"].items():
        if name.startswith("accuracy"):
            typer.echo(f"  {name:28} {value:.3f}", err=True)
    return report  # type: ignore[no-any-return]


def _talk(model_dir: Path, out: Path) -> list[dict[str, str]]:
    """Ask the README's questions one after the other in one conversation; print and keep the answers."""
    from athanor.inference.chat import Conversation
    from athanor.inference.sampling import GREEDY
    from athanor.inference.session import Speaker

    conversation = Conversation(Speaker.open(model_dir), GREEDY, max_new_tokens=96)
    for question in CONVERSATION:
        typer.echo(f"  > {question}", err=True)
        typer.echo(f"  {''.join(conversation.reply(question))}", err=True)
    write_json(out / "conversation.json", conversation.messages)
    return conversation.messages

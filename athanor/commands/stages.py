"""The stages of a model's life: data, tokenizer, pre-training, SFT, RL, evaluation, and the quickstart through all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from athanor.commands import data_browse, data_extract, data_quality, data_synthesise, tokenizer
from athanor.commands.common import ModelOpt, OutOpt, OverridesArg, RecipeArg, load_recipe
from athanor.ranks import is_main

if TYPE_CHECKING:
    from athanor.data.build import CorpusDir
    from athanor.recipe import Recipe
    from athanor.tokenizer import Tokenizer

data_app = typer.Typer(help="Documents → token shards.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the stages to the command line."""
    for room in (data_browse, data_extract, data_quality, data_synthesise):
        room.register(data_app)
    app.add_typer(data_app, name="data")
    app.add_typer(tokenizer.app, name="tokenizer")
    for command in (quickstart, pretrain, sft, rl, eval_, report):
        app.command(command.__name__.rstrip("_"))(command)


@data_app.command("build")
def data_build(
    recipe: RecipeArg,
    overrides: OverridesArg = None,
    *,
    out: OutOpt,
    replace: Annotated[
        bool, typer.Option("--replace", help="Build over what another recipe left; what was measured is used again.")
    ] = False,
) -> None:
    """Sources → OUT/corpus, OUT/tokenizer, OUT/tokens; what was dropped is counted. For `pretrain --data OUT`."""
    from athanor.data.build import tokenize_corpus
    from athanor.train.progress import say

    loaded = load_recipe(recipe, overrides)
    tokenize_corpus(*_corpus_and_tokenizer(loaded, out, replace), out / "tokens", say=say, replace=replace)
    typer.echo(f"data in {out}")


def _corpus_and_tokenizer(recipe: Recipe, out: Path, replace: bool = False) -> tuple[CorpusDir, Tokenizer]:
    from athanor.data.build import build_corpus, train_tokenizer_from_corpus
    from athanor.train.progress import say

    corpus = build_corpus(recipe, out / "corpus", say=say, replace=replace)
    return corpus, train_tokenizer_from_corpus(recipe, corpus, out / "tokenizer", say=say, replace=replace)


def pretrain(
    recipe: RecipeArg,
    overrides: OverridesArg = None,
    *,
    out: OutOpt,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DIR", help="What `data build` wrote (or its URL); default: build it in OUT."),
    ] = None,
    begin_with: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="Go on from this model directory's weights.")
    ] = None,
) -> None:
    """Pre-train through every stage of the recipe. Ctrl-C saves; the same command goes on."""
    from athanor.data.remote import data_parts
    from athanor.train.stage import run_pretrain

    loaded = load_recipe(recipe, overrides)
    made = {} if data is None else data_parts(data)
    _done(run_pretrain(loaded, out, init_from=begin_with, **made))


def sft(recipe: RecipeArg, overrides: OverridesArg = None, *, model: ModelOpt, out: OutOpt) -> None:
    """Supervised fine-tuning on conversations: loss on the answers only."""
    from athanor.align.sft import run_sft

    _done(run_sft(load_recipe(recipe, overrides), model, out))


def _done(model_dir: Path) -> None:
    """Tell where the model is; of several ranks, one does."""
    if is_main():
        typer.echo(f"model in {model_dir}")


def rl(recipe: RecipeArg, overrides: OverridesArg = None, *, model: ModelOpt, out: OutOpt) -> None:
    """Outcome-based reinforcement learning (GRPO) with a verifier."""
    from athanor.align.grpo import run_rl

    _done(run_rl(load_recipe(recipe, overrides), model, out))


def eval_(recipe: RecipeArg, overrides: OverridesArg = None, *, model: ModelOpt, out: OutOpt) -> None:
    """Evaluate a model directory on the recipe's tasks; figures here, answers in OUT/eval.json."""
    from athanor.evaluate.run import run_eval

    results = run_eval(load_recipe(recipe, overrides), model, out)
    if not is_main():
        return
    for task, result in results["tasks"].items():
        for name, value in result["metrics"].items():
            typer.echo(
                f"{task:20} {name:28} {value:.4f}" if isinstance(value, float) else f"{task:20} {name:28} {value}"
            )
    typer.echo(f"answers in {out / 'eval.json'}")


def quickstart(
    overrides: OverridesArg = None,
    text: Annotated[
        list[Path] | None, typer.Option("--text", help="Your own file or folder, which joins the corpus; repeatable.")
    ] = None,
    out: OutOpt = Path("runs/quickstart"),
) -> None:
    """Raw text to a chat model in minutes on two CPU cores, with a report of what each stage bought."""
    from athanor.quickstart import run_quickstart

    run_quickstart(text=text or (), out=out, overrides=overrides or ())


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="File to write; default: RUN_DIR/report.html.")
    ] = None,
) -> None:
    """Write the report of a run: one HTML page that opens from disk."""
    from athanor.report.html import write_report

    typer.echo(f"wrote {write_report(run_dir, out)}")

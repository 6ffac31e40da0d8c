"""The stages of a model's life: data, tokenizer, pre-training, SFT, RL, evaluation, and the quickstart through all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from athanor.commands.common import ModelOpt, OutOpt, OverridesArg, RecipeArg, load_recipe

data_app = typer.Typer(help="Documents → token shards.", no_args_is_help=True)
tokenizer_app = typer.Typer(help="Vocabularies.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the stages to the command line."""
    app.add_typer(data_app, name="data")
    app.add_typer(tokenizer_app, name="tokenizer")
    for command in (quickstart, pretrain, sft, rl, eval_, report):
        app.command(command.__name__.rstrip("_"))(command)


@data_app.command("build")
def data_build(recipe: RecipeArg, overrides: OverridesArg = None, *, out: OutOpt) -> None:
    """Read the recipe's sources, train or load the tokenizer, write token shards and a report of what was dropped."""
    from athanor.data.build import build_corpus

    build_corpus(load_recipe(recipe, overrides), out)
    typer.echo(f"corpus in {out}")


@tokenizer_app.command("train")
def tokenizer_train(recipe: RecipeArg, overrides: OverridesArg = None, *, out: OutOpt) -> None:
    """Train the recipe's vocabulary on its sources."""
    from athanor.data.build import train_recipe_tokenizer

    tokenizer = train_recipe_tokenizer(load_recipe(recipe, overrides), out)
    typer.echo(f"{tokenizer.vocab_size} tokens in {out}")


def pretrain(recipe: RecipeArg, overrides: OverridesArg = None, *, out: OutOpt) -> None:
    """Pre-train: every stage of the recipe, from scratch. Ctrl-C saves; the same command goes on."""
    from athanor.train.stage import run_pretrain

    typer.echo(f"model in {run_pretrain(load_recipe(recipe, overrides), out)}")


def sft(recipe: RecipeArg, overrides: OverridesArg = None, *, model: ModelOpt, out: OutOpt) -> None:
    """Supervised fine-tuning on conversations: loss on the answers only."""
    from athanor.align.sft import run_sft

    typer.echo(f"model in {run_sft(load_recipe(recipe, overrides), model, out)}")


def rl(recipe: RecipeArg, overrides: OverridesArg = None, *, model: ModelOpt, out: OutOpt) -> None:
    """Outcome-based reinforcement learning (GRPO) with a verifier."""
    from athanor.align.grpo import run_rl

    typer.echo(f"model in {run_rl(load_recipe(recipe, overrides), model, out)}")


def eval_(recipe: RecipeArg, overrides: OverridesArg = None, *, model: ModelOpt, out: OutOpt) -> None:
    """Evaluate a model directory on the recipe's tasks."""
    from athanor.evaluate.run import run_eval

    run_eval(load_recipe(recipe, overrides), model, out)
    typer.echo(f"results in {out}")


def quickstart(
    text: Annotated[
        list[Path] | None, typer.Option("--text", help="Your own file or folder, which joins the corpus; repeatable.")
    ] = None,
    out: OutOpt = Path("runs/quickstart"),
) -> None:
    """Raw text to a chat model in minutes on two CPU cores, with a report of what each stage bought."""
    from athanor.quickstart import run_quickstart

    run_quickstart(text=text or [], out=out)


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="File to write; default: RUN_DIR/report.html.")
    ] = None,
) -> None:
    """Write the report of a run: one HTML page that opens from disk."""
    from athanor.report.html import write_report

    typer.echo(f"wrote {write_report(run_dir, out)}")

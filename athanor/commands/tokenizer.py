"""``athanor tokenizer``: train a vocabulary, look into one, compare several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from athanor.commands.common import OutOpt, OverridesArg, RecipeArg, load_recipe

app = typer.Typer(help="Vocabularies: train, look into, compare.", no_args_is_help=True)

DataOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="[DOMAIN[/LANGUAGE]=]PATH",
        help="Texts to measure on: files, folders, globs, or what `data build` wrote; repeatable.",
    ),
]
JsonOpt = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")]


@app.command("train")
def train(recipe: RecipeArg, overrides: OverridesArg = None, *, out: OutOpt) -> None:
    """OUT/corpus, then OUT/tokenizer with report.html: tokens by class, bytes a token by domain, methods compared."""
    from athanor.data.build import build_corpus, train_tokenizer_from_corpus
    from athanor.train.progress import say

    loaded = load_recipe(recipe, overrides)
    corpus = build_corpus(loaded, out / "corpus", say=say)
    train_tokenizer_from_corpus(loaded, corpus, out / "tokenizer", say=say)
    typer.echo(f"tokenizer in {out / 'tokenizer'}")


@app.command("inspect")
def inspect(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Tokenizer or model directory.", show_default=False)],
    text: Annotated[str | None, typer.Option("--text", help="Show how this text is cut.")] = None,
    json: JsonOpt = None,
) -> None:
    """Size, special tokens, classes, longest tokens, policies, tokens that cannot be reached."""
    from athanor.files import write_json
    from athanor.tokenizer import Tokenizer
    from athanor.tokenizer.inspection import cut_text, described, inspection

    tokenizer = Tokenizer.load(directory)
    result = inspection(tokenizer)
    typer.echo(described(result))
    if text is not None:
        typer.echo("\n" + cut_text(tokenizer, text))
    if json is not None:
        write_json(json, result)


@app.command("compare")
def compare(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Tokenizer or model directories.", show_default=False)
    ],
    data: DataOpt = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="`natural`: a BPE of the first vocabulary's size, trained on the texts' own mixture; or one of DIR."
        ),
    ] = None,
    max_mb: Annotated[float, typer.Option("--max-mb", help="At most so many megabytes of each domain.")] = 8.0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write an HTML page with bars.")
    ] = None,
    json: JsonOpt = None,
) -> None:
    """Bytes a token by domain and language, fertility, coverage, on the same texts."""
    from athanor.files import write_atomic, write_json
    from athanor.tokenizer.inspection import compared
    from athanor.tokenizer.page import page, table

    result = compared(directories, data or [], baseline, int(max_mb * 1e6))
    typer.echo(table(result))
    if out is not None:
        write_atomic(out, page(result))
        typer.echo(f"wrote {out}")
    if json is not None:
        write_json(json, result)

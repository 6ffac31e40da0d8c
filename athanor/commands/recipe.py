"""``athanor recipe``: look at recipes without running them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from athanor.commands.common import OverridesArg, RecipeArg, big, load_recipe
from athanor.errors import AthanorError

app = typer.Typer(help="Show, check and describe recipes.", no_args_is_help=True)


@app.command()
def show(recipe: RecipeArg, overrides: OverridesArg = None) -> None:
    """Print the whole recipe as it would run: base, preset, overrides and defaults resolved."""
    from athanor.recipe import dump

    typer.echo(dump(load_recipe(recipe, overrides)), nl=False)


@app.command()
def check(
    recipes: Annotated[
        list[str], typer.Argument(metavar="RECIPE... [KEY=VALUE]...", help="Recipe files, then dotted changes to all.")
    ],
) -> None:
    """Check recipe files; print one line for each, and everything that is wrong with it."""
    files = [word for word in recipes if "=" not in word or Path(word).is_file()]
    overrides = [word for word in recipes if word not in files]
    if not files:
        raise AthanorError("no recipe file given", where="command line", fix="athanor recipe check FILE…")
    problems: list[AthanorError] = []
    for file in files:
        try:
            typer.echo(f"{file}: {_summary(Path(file), overrides)}")
        except AthanorError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise AthanorError("\n".join(map(str, problems)))


def _summary(file: Path, overrides: list[str]) -> str:
    from athanor.model.params import count_params

    recipe = load_recipe(file, overrides)
    parts = ["ok"]
    if recipe.model is not None:
        parts.append(f"{big(count_params(recipe.model))} parameters")
    stages = recipe.train.stages
    if stages:
        parts.append(f"{len(stages)} stage{'s' if len(stages) > 1 else ''} ({', '.join(s.name for s in stages)})")
        tokens = sum(stage.tokens or 0 for stage in stages)
        if tokens:
            parts.append(f"{big(tokens)} tokens")
    return ", ".join(parts)


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write to a file.")] = None,
) -> None:
    """Print the JSON schema of recipe files, for editors that complete and check as you type."""
    from athanor.recipe import json_schema

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
        typer.echo(f"wrote {out}")


@app.command()
def presets() -> None:
    """List the named model shapes with their sizes."""
    from athanor.model.params import count_params
    from athanor.recipe import PRESETS, PUBLISHED_PARAMS

    for name, config in PRESETS.items():
        shape = f"{config.num_hidden_layers} layers × {config.hidden_size}"
        published = PUBLISHED_PARAMS.get(name)
        typer.echo(f"{name:18} {big(count_params(config)):>8}  {shape:20} {published.source if published else ''}")

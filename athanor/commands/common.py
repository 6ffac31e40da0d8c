"""What the commands share: argument types and printing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from athanor.recipe import Recipe

RecipeArg = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).", show_default=False)]
OverridesArg = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Dotted changes, e.g. train.steps=100.", show_default=False),
]
ModelOpt = Annotated[
    Path, typer.Option("--model", "-m", metavar="DIR", help="Model directory to start from.", show_default=False)
]
ModelArg = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Model directory.", show_default=False)]
OutOpt = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Run directory; run again to resume.", show_default=False)
]


def load_recipe(path: Path, overrides: list[str] | None) -> Recipe:
    """The recipe with its overrides; AthanorError for anything wrong."""
    from athanor.recipe import load

    return load(path, overrides or ())


def big(number: float) -> str:
    """``133881311232`` → ``133.9 B``; four figures or fewer stay as they are."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.4g} {letter}"
    return f"{number:g}"

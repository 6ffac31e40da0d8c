"""``athanor data quality``: train the models of the quality axes, measure their agreement, have texts judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from athanor.errors import AthanorError

quality_app = typer.Typer(help="Models of text quality: train, eval, judge.", no_args_is_help=True)

LabelsArg = Annotated[
    Path,
    typer.Argument(metavar="LABELS.jsonl", help='One {"text", "domain", axis: 0…1, …} a line.', show_default=False),
]


def register(data_app: typer.Typer) -> None:
    """Under ``athanor data``."""
    data_app.add_typer(quality_app, name="quality")


@quality_app.command()
def train(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the model.", show_default=False)],
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Labelled texts (jsonl); default: generated examples.")
    ] = None,
    examples: Annotated[int, typer.Option("--examples", min=30, help="How many to generate.")] = 4500,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Train on a file of labels, or on generated examples, and print the agreement on the held-out fifth."""
    from athanor.data.steps import quality_examples
    from athanor.data.steps.quality_train import own_texts, read_labels
    from athanor.data.steps.quality_train import train as fit_and_test

    found = read_labels(labels) if labels else list(quality_examples.examples(examples, seed, *own_texts()))
    model = fit_and_test(found)
    model.save(out)
    _show(model.facts["agreement"])
    typer.echo(f"wrote {out}")


@quality_app.command("eval")
def evaluate(
    labels: LabelsArg,
    model: Annotated[
        Path | None, typer.Option("--model", help="Folder of a model; default: the generated one.")
    ] = None,
) -> None:
    """Agreement of a model with labels: AUC (label at least ½) and Spearman's rank correlation for each axis."""
    from athanor.data.steps.quality_model import agreement
    from athanor.data.steps.quality_train import model_for, read_labels
    from athanor.recipe.steps.quality import QualityOptions

    o = QualityOptions(model=str(model) if model else None)
    _show(agreement(model_for(o.model, None, o.examples, o.seed, o.cache_dir), read_labels(labels)))


@quality_app.command()
def judge(
    texts: Annotated[Path, typer.Argument(metavar="TEXTS.jsonl", help='One {"text": …} a line.', show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="LABELS.jsonl", show_default=False)],
    endpoint: Annotated[
        str, typer.Option("--endpoint", help="Base URL of an OpenAI-compatible server.", show_default=False)
    ],
    model: Annotated[str, typer.Option("--model", help="The model's name there.", show_default=False)],
    api_key_env: Annotated[str | None, typer.Option("--api-key-env", help="Environment variable of the key.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many texts.")] = 1000,
) -> None:
    """Have texts scored by a language model; the answers are labels that ``train --labels`` takes."""
    from athanor.data.steps.base import text_key
    from athanor.data.steps.judge import judge_all
    from athanor.data.steps.judge_client import Client
    from athanor.files import write_atomic
    from athanor.recipe.steps.quality import JudgeOptions

    rows = _texts(texts)[:limit]
    client = Client(JudgeOptions(endpoint=endpoint, model=model, api_key_env=api_key_env))
    scores = judge_all(client, [(text_key(row["text"]), row["text"]) for row in rows])
    known = [{**row, **scores[key]} for row in rows if (key := text_key(row["text"])) in scores]
    write_atomic(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in known))
    typer.echo(f"{len(known)} of {len(rows)} texts judged: {out}")


def _texts(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise AthanorError(f"cannot be read: {error}", where=str(path), fix="a UTF-8 jsonl file of texts") from None
    if not all(isinstance(row, dict) and isinstance(row.get("text"), str) for row in rows):
        raise AthanorError("a line without a text", where=str(path), fix='{"text": "…"}')
    return rows


def _show(rows: list[dict[str, Any]]) -> None:
    typer.echo(f"{'group':6} {'axis':12} {'examples':>8} {'AUC':>6} {'Spearman':>8}")
    for row in rows:
        typer.echo(f"{row['group']:6} {row['axis']:12} {row['examples']:8} {row['auc']:6.3f} {row['spearman']:8.3f}")

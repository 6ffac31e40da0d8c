"""``athanor generate`` and ``athanor chat``. Imports are inside, so that ``--help`` does not wait for torch."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from athanor.commands.common import ModelArg
from athanor.errors import AthanorError
from athanor.ranks import is_main

if TYPE_CHECKING:
    from athanor.inference.sampling import Sampling
    from athanor.inference.session import Speaker

Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", "-p", metavar="TEXT", help="Text to continue; may be repeated. Without it: stdin."),
]
Temperature = Annotated[float, typer.Option("--temperature", "-t", help="0: always the most likely token.")]
TopK = Annotated[int, typer.Option("--top-k", help="Only the k most likely tokens (0: all).")]
TopP = Annotated[float, typer.Option("--top-p", help="Only the most likely tokens with this much mass (1: all).")]
MaxNew = Annotated[int, typer.Option("--max-new-tokens", "-n", help="At most this many new tokens.")]
LayoutArg = Annotated[
    list[str] | None,
    typer.Argument(metavar="[parallel.KEY=VALUE]...", help="Layout over launched ranks.", show_default=False),
]
Seed = Annotated[int, typer.Option("--seed", help="The same seed says the same.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, npu, …; default: the accelerator, if any.")]
System = Annotated[str | None, typer.Option("--system", help="System message of the conversation.")]


def register(app: typer.Typer) -> None:
    """Add both commands to the command line."""
    app.command("generate")(generate)
    app.command("chat")(chat)


def generate(
    model: ModelArg,
    layout: LayoutArg = None,
    prompt: Prompts = None,
    as_chat: Annotated[bool, typer.Option("--chat/--raw", help="Ask as a user's turn, or continue the text.")] = False,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNew = 128,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Continue a text, or answer it (--chat). Over ranks: athanor launch --nproc 4 -- generate DIR parallel.tp=2 …"""
    from athanor.inference.sampling import Sampling
    from athanor.inference.session import utf8
    from athanor.parallel.session import Layout, open_speaker
    from athanor.recipe.loading import settings

    _open_stdin()
    texts = [utf8(text, "--prompt") for text in prompt or ()] or [utf8(sys.stdin.read().removesuffix("\n"), "stdin")]
    if not all(texts):
        raise AthanorError("the prompt is empty", where="--prompt", fix="give --prompt TEXT, or text on stdin")
    sampling = Sampling(temperature, top_k, top_p, seed)
    speaker = open_speaker(settings(Layout, layout or ()), model, device)
    ids = [
        speaker.tokenizer.render_chat([{"role": "user", "content": text}], add_generation_prompt=True)
        if as_chat
        else speaker.tokenizer.encode(text)
        for text in texts
    ]
    room = speaker.model.config.max_position_embeddings - max(map(len, ids))
    if 0 < room < max_new_tokens:
        _echo(f"note: the context has room for {room} new tokens, not {max_new_tokens}", err=True)
    if len(texts) == 1:
        for piece in speaker.stream_text(ids[0], sampling, max_new_tokens):
            _echo(piece, nl=False)
            sys.stdout.flush()
        _echo()
    else:
        _print_batch(speaker, texts, ids, sampling, max_new_tokens)


def _print_batch(
    speaker: Speaker, texts: list[str], ids: list[list[int]], sampling: Sampling, max_new_tokens: int
) -> None:
    from athanor.inference.engine import generate as generate_batch

    done = generate_batch(speaker.model, ids, sampling, speaker.stop_ids, max_new_tokens)
    for text, generation in zip(texts, done, strict=True):
        _echo(f"{text}\n→ {speaker.tokenizer.decode(generation.ids)}\n")


def _echo(text: str = "", **how: bool) -> None:
    """Print; of several ranks, one does."""
    if is_main():
        typer.echo(text, **how)  # type: ignore[arg-type]


def chat(
    model: ModelArg,
    lang: Annotated[str | None, typer.Option("--lang", help="en or zh; default: by locale.")] = None,
    system: System = None,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNew = 256,
    seed: Seed = 0,
    device: Device = None,
    memory: Annotated[
        bool, typer.Option(help="Whether a turn sees those before it; a small model may know none.")
    ] = True,
) -> None:
    """Talk with a model. /reset starts over, /exit leaves. Lines on stdin work too (one turn a line)."""
    from athanor.inference.chat import Conversation, chat_loop, ui_language
    from athanor.inference.sampling import Sampling

    if not sys.stdin.isatty():
        _open_stdin()
    language = ui_language(lang)
    sampling = Sampling(temperature, top_k, top_p, seed)
    conversation = Conversation(_open(model, device), sampling, max_new_tokens, system, memory)
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (importing it gives `input` history and line editing)
    chat_loop(conversation, str(model), language, input if sys.stdin.isatty() else _piped_line, sys.stdout)


def _piped_line(prompt: str) -> str:
    """A line of stdin, echoed behind the prompt, so that a piped conversation reads like one at a terminal."""
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    typer.echo(prompt + line.rstrip("\n").encode(errors="replace").decode())
    return line


def _open_stdin() -> None:
    """Before the first read: bytes that are no UTF-8 come as lone surrogates, for ``utf8`` to complain of."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")


def _open(model: object, device: str | None) -> Speaker:
    from athanor.inference.session import Speaker

    return Speaker.open(str(model), device=device)

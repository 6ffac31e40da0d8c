"""A conversation in the terminal, in English or Chinese."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Literal, TextIO

from athanor.errors import AthanorError
from athanor.inference.engine import stream
from athanor.inference.sampling import Sampling
from athanor.inference.session import Speaker, utf8, whole_characters

Lang = Literal["en", "zh"]

TEXTS: dict[Lang, dict[str, str]] = {
    "en": {
        "hello": "Talking with {model}. /reset starts over, /exit (or Ctrl-D) leaves.",
        "you": "you> ",
        "model": "model> ",
        "reset": "(conversation cleared)",
        "bye": "Bye.",
        "unknown": "(unknown command {command}; there are /reset, /exit, /help)",
        "forgot": "({n} earlier messages no longer fit the context of {context} tokens and were left out)",
        "cut": "(the answer was cut off: --max-new-tokens or the end of the context)",
        "interrupted": "(interrupted)",
        "help": "/reset  start over\n/exit   leave\n/help   this text",
    },
    "zh": {
        "hello": "正在与 {model} 对话。/reset 重新开始，/exit（或 Ctrl-D）退出。",
        "you": "你> ",
        "model": "模型> ",
        "reset": "（对话已清空）",
        "bye": "再见。",
        "unknown": "（没有命令 {command}；可用：/reset、/exit、/help）",
        "forgot": "（较早的 {n} 条消息超出 {context} 个词元的上下文，已略去）",
        "cut": "（回答未完：已达 --max-new-tokens 或上下文上限）",
        "interrupted": "（已中断）",
        "help": "/reset  重新开始\n/exit   退出\n/help   显示本说明",
    },
}


def ui_language(lang: str | None = None) -> Lang:
    """``lang`` if given (en or zh), else Chinese where the locale is Chinese, else English."""
    if lang is not None:
        if lang not in TEXTS:
            raise AthanorError(f"no texts in language {lang!r}", where="--lang", fix="en or zh")
        return "zh" if lang == "zh" else "en"
    locale = next((os.environ[k] for k in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(k)), "")
    return "zh" if locale.lower().startswith("zh") else "en"


class Conversation:
    """Messages so far, and the model's turn.

    ``memory`` False: every turn begins a new conversation. ``forgotten``: how many old messages the last turn left out;
    ``cut``: its answer ran into ``max_new_tokens`` or the end of the context.
    """

    def __init__(
        self,
        speaker: Speaker,
        sampling: Sampling,
        max_new_tokens: int,
        system: str | None = None,
        memory: bool = True,
    ) -> None:
        if not speaker.tokenizer.has_chat:
            raise AthanorError(
                "this model's vocabulary has no chat tokens", where="chat", fix="use `athanor generate` with --prompt"
            )
        self.speaker, self.sampling, self.max_new_tokens = speaker, sampling, max_new_tokens
        self.opening = [{"role": "system", "content": utf8(system, "--system")}] if system else []
        self.messages: list[dict[str, str]] = []
        self.memory = memory
        self.forgotten = 0
        self.cut = False
        self._turns = 0

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages.clear()
        self.forgotten = 0

    def reply(self, text: str) -> Iterator[str]:
        """Stream the answer to ``text``. Both join the conversation; a question that cannot be read does not."""
        if not self.memory:
            self.reset()
        asked = {"role": "user", "content": utf8(text, "your text")}
        speaker = self.speaker
        prompt = self._prompt([*self.messages, asked])
        tokens = stream(
            speaker.model, prompt, self.sampling, speaker.stop_ids, self.max_new_tokens, row_seed=self._turns
        )
        said: list[str] = []
        heard = False

        def heeded() -> Iterator[int]:
            nonlocal heard
            for token in tokens:
                heard, self.cut = True, token not in speaker.stop_ids
                yield token

        try:
            for piece in whole_characters(heeded(), speaker.tokenizer):
                said.append(piece)
                yield piece
        finally:
            # Also when the reader leaves in the middle: what was said was said.
            if heard:
                self.messages += [asked, {"role": "assistant", "content": "".join(said)}]
                self._turns += 1

    def _prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of the newest messages that leave room for an answer; whole exchanges go, oldest first."""
        context = self.speaker.model.config.max_position_embeddings
        room = context - min(self.max_new_tokens, context // 4)
        start = 0
        while True:
            ids = self.speaker.tokenizer.render_chat([*self.opening, *messages[start:]], add_generation_prompt=True)
            if len(ids) <= room or start + 2 >= len(messages):
                self.forgotten = start
                return ids
            start += 2


def chat_loop(
    conversation: Conversation, name: str, lang: Lang, read: Callable[[str], str], out: TextIO, greet: bool = True
) -> None:
    """Read lines until /exit or the end of input; ``read(prompt)`` raises EOFError at the end, like ``input``."""
    texts = TEXTS[lang]

    def say(text: str, end: str = "\n") -> None:
        out.write(text + end)
        out.flush()

    if greet:
        say(texts["hello"].format(model=name))
    while True:
        try:
            line = read(texts["you"]).strip()
        except (EOFError, KeyboardInterrupt):
            break
        if line in ("/exit", "/quit"):
            break
        if line == "/reset":
            conversation.reset()
            say(texts["reset"])
        elif line == "/help":
            say(texts["help"])
        elif line.startswith("/"):
            say(texts["unknown"].format(command=line.split()[0]))
        elif line:
            _turn(conversation, line, texts, say)
    if greet:
        say(texts["bye"])


def _turn(conversation: Conversation, line: str, texts: dict[str, str], say: Callable[..., None]) -> None:
    """One exchange; a question that does not fit the context is answered with the reason, and the talk goes on."""
    say(texts["model"], end="")
    try:
        for piece in conversation.reply(line):
            say(piece, end="")
        say("")
    except AthanorError as error:
        say(f"\n{error}")
    except KeyboardInterrupt:
        say("\n" + texts["interrupted"])
    if conversation.cut:
        say(texts["cut"])
    if conversation.forgotten:
        context = conversation.speaker.model.config.max_position_embeddings
        say(texts["forgot"].format(n=conversation.forgotten, context=context))

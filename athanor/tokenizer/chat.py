"""The chat format: special tokens, roles, and the Jinja template that says the same to other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from athanor.errors import AthanorError

Message = Mapping[str, str]

EOS, PAD, END = "<|endoftext|>", "<|pad|>", "<|end|>"
ROLES = ("system", "user", "assistant")
#: In id order, from 0.
SPECIALS = (EOS, PAD, *(f"<|{role}|>" for role in ROLES), END)

#: What ``Tokenizer.render_chat`` writes, for ``transformers``' apply_chat_template and for servers.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('unknown role: ' + message['role']) -}}"
    "{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def check_messages(messages: Sequence[Message], where: str | None = None) -> None:
    """Refuse a conversation that has no turns, an unknown role or content that is not text."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise AthanorError("a conversation needs a list of messages", where=where, fix='[{"role": …, "content": …}, …]')
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise AthanorError(f"message {number} is not an object", where=where, fix='{"role": …, "content": …}')
        if message.get("role") not in ROLES:
            roles = ", ".join(ROLES)
            raise AthanorError(
                f"message {number} has role {message.get('role')!r}", where=where, fix=f"one of: {roles}"
            )
        if not isinstance(message.get("content"), str):
            raise AthanorError(f"message {number} has no text content", where=where, fix='give "content": "text"')

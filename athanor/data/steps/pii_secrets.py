"""Keys, tokens, passwords: by the issuer's prefix, by form, or by entropy after a word that names a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator

from athanor.data.steps.pii_checks import entropy_bits
from athanor.data.steps.pii_context import Around

#: Published token forms (issuers' documentation): literal prefix → what follows it.
_FORMS = {
    prefix: re.compile(rest)
    for prefixes, rest in (
        ("AKIA ASIA", r"[A-Z2-7]{16}(?![A-Za-z0-9])"),
        ("ghp_ gho_ ghu_ ghs_ ghr_", r"[A-Za-z0-9]{36,251}"),
        ("github_pat_", r"[A-Za-z0-9_]{22,255}"),
        ("glpat-", r"[A-Za-z0-9_\-]{20,64}"),
        ("xox", r"[abeoprs]-[A-Za-z0-9\-]{10,250}"),
        ("AIza", r"[A-Za-z0-9_\-]{35}(?![A-Za-z0-9_\-])"),
        ("sk_live_ sk_test_ rk_live_ rk_test_", r"[A-Za-z0-9]{16,99}"),
        ("sk-", r"(?:proj-|ant-|svcacct-|or-)?[A-Za-z0-9_\-]{20,200}"),
        ("hf_", r"[A-Za-z0-9]{30,40}"),
        ("npm_", r"[A-Za-z0-9]{36}"),
        ("pypi-", r"[A-Za-z0-9_\-]{50,250}"),
        ("LTAI", r"[A-Za-z0-9]{12,26}(?![A-Za-z0-9])"),
        ("AKID", r"[A-Za-z0-9]{30,40}(?![A-Za-z0-9])"),
        ("SG.", r"[A-Za-z0-9_\-]{16,32}\.[A-Za-z0-9_\-]{30,64}"),
        ("eyJ", r"[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}"),
    )
    for prefix in prefixes.split()
}
_BLOCK = re.compile(r"-----BEGIN ((?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?)-----.{16,8192}?-----END \1-----", re.S)
#: A value behind a sign of assignment (its name is read backwards), behind a Chinese name, or behind ``Bearer``.
_VALUE = r"[\"'`]?([A-Za-z0-9_\-./+=!@#$%^&*~]{8,200})"
_ASSIGNED = re.compile(r"[=:：][>=]?\s{0,3}" + _VALUE)
_TOLD = re.compile(r"(?:密[码钥]|口令|令牌)[是为]?\s?" + _VALUE)
_BEARER = re.compile(r"(?:earer|uthorization[\"']?\s?[:=]\s?[\"']?(?:[Tt]oken|[Bb]asic)) " + _VALUE)
_NAME = re.compile(
    r"(?:api[_\- ]?key|access[_\- ]?key(?:[_\- ]?(?:id|secret))?|"
    r"secret(?:[_\- ]?(?:access[_\- ]?)?key)?|client[_\- ]?secret|"
    r"(?:auth|access|refresh)[_\- ]?token|token|passwd|password|pwd|private[_\- ]?key|"
    r"密码|密钥|口令|令牌)[\"'`]?\s{0,3}\Z"
)
_USER_INFO = re.compile(r"://[A-Za-z0-9._%\-]{1,40}:([^\s/\"'<>]{3,80})@")
_PLACEHOLDER = re.compile(
    r"(?i)your|example|sample|placeholder|changeme|x{4,}|\*{3,}|\.{3}|<|dummy|redacted|12345678|none|null|true|false|todo|"
    r"self\.|os\.|env|config|args|params|request|session|\$\{|%s|test_?key"
)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z_]*(?:[._\-/][A-Za-z_]+)*\Z")
_HASH = re.compile(r"(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})\Z")
_PASSWORD = re.compile(r"pass|pwd|密码|口令")

Found = tuple[int, int, str]


def secrets(around: Around) -> Iterator[Found]:
    """Spans of secrets alone: of ``api_key = "…"`` the quoted value, of ``//user:pass@host`` the password."""
    text = around.text
    if "-----BEGIN" in text:
        for match in _BLOCK.finditer(text):
            yield *match.span(), "KEY"
    yield from _issued(text)
    if "://" in text and "@" in text:
        for match in _USER_INFO.finditer(text):
            if not _PLACEHOLDER.search(match.group(1)) and match.group(1).lower() not in ("pass", "password", "pwd"):
                yield *match.span(1), "KEY"
    for match in _ASSIGNED.finditer(text):
        if name := _NAME.search(text[max(0, match.start() - 24) : match.start()].lower()):
            yield from _kept(text, name.group(), *match.span(1))
    if not text.isascii():
        for match in _TOLD.finditer(text):
            yield from _kept(text, match.group()[:2], *match.span(1))
    if "uthorization" in text or "earer " in text:
        for match in _BEARER.finditer(text):
            yield from _kept(text, "bearer", *match.span(1))


def _issued(text: str) -> Iterator[Found]:
    for prefix, rest in _FORMS.items():
        at = text.find(prefix)
        while at >= 0:
            match = rest.match(text, at + len(prefix))
            inside = at > 0 and text[at - 1].isascii() and text[at - 1].isalnum()
            # Amazon's key ids have digits in most cases only; their form alone is evidence enough.
            if match and not inside and (prefix in ("AKIA", "ASIA") or _is_random(text[at : match.end()], 3.0)):
                yield at, match.end(), "KEY"
            at = text.find(prefix, at + 1)


def _kept(text: str, name: str, start: int, end: int) -> Iterator[Found]:
    """The value that ``name`` is given, where it is drawn and not written."""
    end = start + len(text[start:end].rstrip(".,;!"))
    if _is_secret(name, text[start:end], text[end : end + 1]):
        yield start, end, "KEY"


def _is_random(value: str, bits: float) -> bool:
    """Entropy of drawn characters, with digits and letters mixed, and no word of a template."""
    return (
        entropy_bits(value) >= bits
        and any(c.isdigit() for c in value)
        and any(c.isalpha() for c in value)
        and not _PLACEHOLDER.search(value)
    )


def _is_secret(name: str, value: str, after: str) -> bool:
    if after in ("(", "[") or _IDENTIFIER.match(value):
        return False
    if _PASSWORD.search(name):
        return _is_random(value, 2.5) and "/" not in value
    if len(value) < 16 or _HASH.match(value) and name.startswith("token"):
        return False
    if "/" in value and (value.startswith(("/", ".")) or entropy_bits(value) < 4.2):  # a path
        return False
    return _is_random(value, 3.3) and len(re.findall(r"[0-9]", value)) >= 2

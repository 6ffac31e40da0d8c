"""Mathematical characters → LaTeX: what a formula written in Unicode (OMML runs, text of PDFs) becomes."""

from __future__ import annotations

import unicodedata
from functools import cache

_GREEK = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "omicron", "pi", "rho", "varsigma", "sigma", "tau", "upsilon", "varphi", "chi", "psi", "omega",
]  # fmt: skip
_OPERATORS = {
    "−": "-", "–": "-", "—": "-", "∗": "*", "×": r"\times", "÷": r"\div", "±": r"\pm", "∓": r"\mp", "·": r"\cdot",
    "⋅": r"\cdot", "∙": r"\cdot", "•": r"\bullet", "∘": r"\circ", "⊗": r"\otimes", "⊕": r"\oplus", "⊖": r"\ominus",
    "⊙": r"\odot", "†": r"\dagger", "‡": r"\ddagger", "⋆": r"\star", "≤": r"\leq", "≥": r"\geq", "≠": r"\neq",
    "≪": r"\ll", "≫": r"\gg", "≈": r"\approx", "≅": r"\cong", "≡": r"\equiv", "∼": r"\sim", "≃": r"\simeq",
    "∝": r"\propto", "≺": r"\prec", "≻": r"\succ", "⪯": r"\preceq", "⪰": r"\succeq", "≔": ":=", "≜": r"\triangleq",
    "∈": r"\in", "∉": r"\notin", "∋": r"\ni", "⊂": r"\subset", "⊃": r"\supset", "⊆": r"\subseteq", "⊇": r"\supseteq",
    "⊄": r"\not\subset", "∪": r"\cup", "∩": r"\cap", "∖": r"\setminus", "∅": r"\emptyset", "∧": r"\wedge",
    "∨": r"\vee", "¬": r"\neg", "∀": r"\forall", "∃": r"\exists", "∄": r"\nexists", "∴": r"\therefore",
    "∵": r"\because", "⊢": r"\vdash", "⊨": r"\models", "⊥": r"\perp", "⊤": r"\top", "∥": r"\parallel", "∣": r"\mid",
    "→": r"\to", "←": r"\leftarrow", "↔": r"\leftrightarrow", "⇒": r"\Rightarrow", "⇐": r"\Leftarrow",
    "⇔": r"\Leftrightarrow", "⟹": r"\implies", "⟺": r"\iff", "⟶": r"\longrightarrow", "⟵": r"\longleftarrow",
    "↦": r"\mapsto", "↑": r"\uparrow", "↓": r"\downarrow", "↗": r"\nearrow", "↘": r"\searrow",
    "⇌": r"\rightleftharpoons", "∂": r"\partial", "∇": r"\nabla", "∞": r"\infty", "∑": r"\sum", "∏": r"\prod",
    "∐": r"\coprod", "∫": r"\int", "∬": r"\iint", "∭": r"\iiint", "∮": r"\oint", "∯": r"\oiint", "∰": r"\oiiint",
    "⋃": r"\bigcup", "⋂": r"\bigcap", "⋁": r"\bigvee", "⋀": r"\bigwedge", "⨁": r"\bigoplus", "⨂": r"\bigotimes",
    "⨀": r"\bigodot", "√": r"\surd", "∠": r"\angle", "△": r"\triangle", "□": r"\square", "…": r"\ldots",
    "⋯": r"\cdots", "⋮": r"\vdots", "⋱": r"\ddots", "′": "'", "″": "''", "‴": "'''", "°": r"^{\circ}", "ℓ": r"\ell",
    "ℏ": r"\hbar", "ħ": r"\hbar", "ℜ": r"\Re", "ℑ": r"\Im", "ℵ": r"\aleph", "℘": r"\wp", "ı": r"\imath",
    "ȷ": r"\jmath", "⟨": r"\langle", "⟩": r"\rangle", "〈": r"\langle", "〉": r"\rangle", "⌊": r"\lfloor",
    "⌋": r"\rfloor", "⌈": r"\lceil", "⌉": r"\rceil", "‖": r"\|", "∆": r"\Delta", "Ω": r"\Omega", "µ": r"\mu",
    "ϵ": r"\epsilon", "ε": r"\varepsilon", "ϑ": r"\vartheta", "φ": r"\varphi", "ϕ": r"\phi", "ϱ": r"\varrho",
    "ϖ": r"\varpi", "ϰ": r"\varkappa", "\\": r"\backslash", "{": r"\{", "}": r"\}", "#": r"\#", "%": r"\%",
    "$": r"\$", "&": r"\&", "_": r"\_", "^": "^", "~": r"\sim", "\u00a0": r"\ ", "\u2002": r"\ ", "\u2003": r"\quad",
    "\u2009": r"\,", "\u200a": "", "\u2006": r"\,", "\u2005": r"\:", "\u2004": r"\;", "\u200b": "", "\u2061": "",
    "\u2062": "", "\u2063": "", "\u2064": "", "\ufeff": "", "\u2032\u2032": "''",
}  # fmt: skip
_CAPITAL_GREEK = {"Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"}
#: First word of a letter's Unicode name in the mathematical alphabets, and LaTeX's command for that alphabet.
_ALPHABETS = {
    "BOLD SCRIPT": "mathcal", "BOLD FRAKTUR": "mathfrak", "DOUBLE-STRUCK": "mathbb", "BLACK-LETTER": "mathfrak",
    "SANS-SERIF": "mathsf", "SCRIPT": "mathcal", "FRAKTUR": "mathfrak", "MONOSPACE": "mathtt", "BOLD": "mathbf",
}  # fmt: skip


@cache
def char_latex(char: str) -> str:
    """LaTeX (math mode) of one character; characters that LaTeX takes as they are come back unchanged."""
    if char in _OPERATORS:
        return _OPERATORS[char]
    if char.isascii() or "\u4e00" <= char <= "\u9fff":
        return char
    if "α" <= char <= "ω":
        return "\\" + _GREEK[ord(char) - ord("α")] if char != "ο" else "o"
    name = unicodedata.name(char, "")
    if name.startswith("GREEK CAPITAL LETTER ") and (word := name.split()[-1].capitalize()) in _CAPITAL_GREEK:
        return "\\" + ("Lambda" if word == "Lamda" else word)
    if name == "GREEK CAPITAL LETTER LAMDA":
        return r"\Lambda"
    return _alphabet(char, name) or _from_library(char)


def _alphabet(char: str, name: str) -> str:
    """Letters of the mathematical alphabets and Letterlike Symbols (ℝ, 𝐀, 𝒜, 𝑥)."""
    plain = unicodedata.normalize("NFKC", char)
    if len(plain) != 1 or plain == char:
        return ""
    if not name.startswith("MATHEMATICAL ") and not any(name.startswith(style) for style in _ALPHABETS):
        return char_latex(plain) if name.endswith("SIGN") else ""
    name = name.removeprefix("MATHEMATICAL ")
    command = next((command for style, command in _ALPHABETS.items() if name.startswith(style)), "")
    inner = char_latex(plain)
    return f"\\{command}{{{inner}}}" if command else inner


@cache
def _library() -> dict[int, str]:
    from pylatexenc.latexencode import get_builtin_uni2latex_dict

    return dict(get_builtin_uni2latex_dict())


def _from_library(char: str) -> str:
    """pylatexenc's table, where its entry is a math one; text-mode macros would be wrong inside a formula."""
    found = _library().get(ord(char), "")
    if found.startswith(r"\ensuremath{"):
        return found[len(r"\ensuremath{") : -1]
    return char


def math_latex(text: str) -> str:
    """A run of formula text → LaTeX; a command is parted by a space from a letter that follows it."""
    out: list[str] = []
    for char in text:
        piece = char_latex(char)
        if out and piece[:1].isalpha() and piece[:1].isascii() and _ends_in_command(out[-1]):
            out.append(" ")
        if piece:
            out.append(piece)
    return "".join(out)


def _ends_in_command(piece: str) -> bool:
    return len(piece) > 1 and piece.startswith("\\") and piece[-1].isalpha()


def join_math(pieces: list[str]) -> str:
    """Pieces of LaTeX side by side, with a space where a command would swallow the next letter."""
    out = ""
    for piece in pieces:
        if piece and out and piece[0].isalpha() and _open_command(out):
            out += " "
        out += piece
    return out


def _open_command(text: str) -> bool:
    start = len(text)
    while start and text[start - 1].isalpha() and text[start - 1].isascii():
        start -= 1
    return 0 < start < len(text) and text[start - 1] == "\\" and text[start - 2 : start - 1] != "\\"

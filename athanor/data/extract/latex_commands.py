r"""What LaTeX's commands and environments mean for the text, as tables; counters of labels; small scanners."""

from __future__ import annotations

import re
from collections.abc import Iterator

from athanor.data.extract.latex_scan import argument, optional

LIGATURES = {"``": "“", "''": "”", "---": "—", "--": "–", "~": " ", "{": "", "}": ""}
ESCAPES = {
    ",": " ",
    ";": " ",
    ":": " ",
    "!": "",
    "/": "",
    "-": "",
    ")": "",
    "]": "",
    "@": "",
    "|": "‖",
    ">": " ",
    "<": "",
}
ACCENTS = {
    "'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304", ".": "\u0307",
    "c": "\u0327", "v": "\u030c", "u": "\u0306", "H": "\u030b", "k": "\u0328", "r": "\u030a", "d": "\u0323",
}  # fmt: skip
SYMBOLS = {
    "ldots": "…", "dots": "…", "textellipsis": "…", "S": "§", "P": "¶", "copyright": "©", "LaTeX": "LaTeX",
    "TeX": "TeX", "BibTeX": "BibTeX", "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^",
    "textless": "<", "textgreater": ">", "textbar": "|", "textunderscore": "_", "textquotesingle": "'",
    "textasciigrave": "`", "lbrace": "{", "rbrace": "}", "quad": " ", "qquad": " ", "par": "\n\n", "newline": "\n",
    "linebreak": "\n", "item": "\n\n- ", "checkmark": "✓", "cmark": "✓", "xmark": "✗", "and": ", ", "AND": "\n\n",
    "And": "\n\n", "texttrademark": "™", "textregistered": "®", "xspace": "", "noindent": "", "centering": "",
    "maketitle": "", "newpage": "", "clearpage": "", "appendix": "", "smallskip": "\n\n",
    "medskip": "\n\n", "bigskip": "\n\n", "State": "\n", "If": "\nif ", "Else": "\nelse", "For": "\nfor ",
    "While": "\nwhile ", "EndIf": "\nend if", "EndFor": "\nend for", "EndWhile": "\nend while", "Return": "return ",
    "Require": "\nRequire: ", "Ensure": "\nEnsure: ", "Comment": " ▷ ", "item@": "", "textdegree": "°",
    "degree": "°", "euro": "€", "pounds": "£", "i": "ı", "j": "ȷ", "em": "", "bf": "", "it": "", "rm": "", "tt": "",
    "sc": "", "sf": "", "sl": "", "cr": "\n", "hfill": " ", "vfill": "", "protect": "", "relax": "", "left": "",
    "right": "", "big": "", "displaystyle": "", "let": "", "makeatletter": "",
    "makeatother": "",
}  # fmt: skip
SECTIONS = {
    "part": 0, "chapter": 0, "section": 1, "subsection": 2, "subsubsection": 3, "paragraph": 4, "subparagraph": 5,
}  # fmt: skip
CITATIONS = frozenset(
    [
        "cite", "citep", "citet", "citealp", "citealt", "citeauthor", "citeyear", "citeyearpar", "parencite",
        "textcite", "autocite", "footcite", "supercite", "Cite", "Citet", "Citep", "shortcite", "newcite",
        "onlinecite", "citenum",
    ]
)  # fmt: skip
REFERENCES = frozenset(
    ["ref", "eqref", "pageref", "autoref", "cref", "Cref", "nameref", "vref", "subref", "labelcref", "autocref"]
)
#: How a command's arguments are read: ``-`` dropped, ``o`` optional and dropped, ``+`` kept (left in place).
SIGNATURES = {
    **dict.fromkeys(
        [
            "label", "vspace", "hspace", "includegraphics", "color", "bibliography", "bibliographystyle", "pagestyle",
            "thispagestyle", "usetikzlibrary", "graphicspath", "hypersetup", "phantom", "vphantom",
            "hphantom", "nocite", "index", "addbibresource", "input", "include", "balance", "bibitem", "date",
            "linespread", "captionsetup", "title", "author",
            "pdfbookmark", "includepdf", "pagenumbering", "theoremstyle", "urlstyle", "lstset", "tikzset",
            "cellcolor", "rowcolor", "RequirePackage", "usepackage", "documentclass",
            "hyphenation", "orcidID", "sisetup", "pgfplotsset", "inst", "affiliation", "ead", "cormark", "cortext",
            "arrayrulecolor", "titlerunning", "authorrunning", "usetheme", "usecolortheme", "usefonttheme",
            "useinnertheme", "useoutertheme", "AtBeginSection", "AtBeginDocument", "ctexset", "geometry", "zihao",
            "setmainfont", "setCJKmainfont", "subtitle", "institute", "logo",
        ],
        "oo-",
    ),
    **dict.fromkeys(["setlength", "addtolength", "setcounter", "addtocounter", "fontsize", "rule", "definecolor",
                     "numberwithin", "markboth", "addcontentsline", "addtocontents", "setbeamertemplate",
                     "setbeamercolor", "setbeamerfont", "SetKwInput", "SetKwInOut", "SetKwData", "SetKwFunction",
                     "SetKwProg", "SetKwFor"], "o--o"),
    **dict.fromkeys(["textcolor", "colorbox", "scalebox", "raisebox", "href", "parbox", "fcolorbox", "hyperref",
                     "rotatebox", "foreignlanguage", "hyperlink", "hypertarget"], "o-+"),
    **dict.fromkeys(["resizebox"], "--+"),
    "newtheorem": "-o-o", "declaretheorem": "o-", "tableofcontents": "o", "listoffigures": "o", "DeclareSIUnit": "o--",
    "texorpdfstring": "+-", "renewcommand": "--", "newcolumntype": "-o-", "newenvironment": "-oo--",
    "renewenvironment": "-oo--", "newif": "", "ensuremath": "+", "href": "-+", "url": "+", "includegraphics": "oo-",
    "footnotemark": "o", "makebox": "oo+", "framebox": "oo+", "shortstack": "o+", "makecell": "o+", "thead": "o+",
    "hyperref": "o+", "newcounter": "-", "newlength": "-", "newcommand": "-oo-", "setminted": "-",
    "printbibliography": "o", "adjustbox": "-+", "multirow": "-o-+", "multicolumn": "--+", "rowcolors": "---",
}  # fmt: skip
#: Environment → what its body is wrapped in inside ``$$``, "" for nothing.
MATH = {
    "equation": "", "displaymath": "", "math": "", "align": "aligned", "eqnarray": "aligned", "gather": "gathered",
    "flalign": "aligned", "alignat": "aligned", "multline": "gathered", "dmath": "", "IEEEeqnarray": "aligned",
}  # fmt: skip
TABLES = frozenset(
    ["tabular", "tabularx", "tabulary", "longtable", "tabu", "longtabu", "supertabular", "array", "xltabular", "tblr"]
    + ["deluxetable"]
)
LISTS = frozenset(["itemize", "enumerate", "description", "compactitem", "compactenum", "inparaenum", "tightitemize"])
DROPPED = frozenset(["thebibliography", "tikzpicture", "pgfpicture", "picture", "CCSXML", "comment", "filecontents"])
HEADED = {"abstract": "Abstract", "acks": "Acknowledgments", "acknowledgments": "Acknowledgments"}
HEADED |= {"acknowledgements": "Acknowledgments", "keywords": "Keywords", "IEEEkeywords": "Keywords"}
#: Environments of slides whose argument is a title, and how that is written.
TITLED = {"frame": "### ", "block": "", "alertblock": "", "exampleblock": ""}
#: TeX's own commands behind which a length stands.
LENGTHS = frozenset(["vskip", "hskip", "kern", "mkern", "hbox", "vbox", "parskip", "parindent", "baselineskip"])
#: Letters: TeX takes the space behind their names away.
LETTERS = frozenset(["AE", "ae", "OE", "oe", "AA", "aa", "O", "o", "L", "l", "ss", "i", "j", "S", "P", "pounds", "dh"])
#: Environments whose mandatory arguments are widths and formats: how many there are.
_ARGUMENTS = {
    "tabular": 1, "tabular*": 2, "tabularx": 2, "tabulary": 2, "longtable": 1, "array": 1, "supertabular": 1,
    "xltabular": 2, "tblr": 1, "minipage": 1, "wrapfigure": 2, "wraptable": 2, "multicols": 1, "adjustbox": 1,
    "subfigure": 1, "subtable": 1, "spacing": 1, "alignat": 1, "alignat*": 1, "list": 2, "algorithmic": 0,
    "adjustwidth": 2, "tcolorbox": 0, "mdframed": 0, "figwindow": 1, "threeparttable": 0, "IEEEbiography": 1,
    "tabu": 1, "longtabu": 1, "CJK": 2, "CJK*": 2, "deluxetable": 1, "deluxetable*": 1, "textblock": 1,
    "column": 1,
}  # fmt: skip


def skip_arguments(text: str, position: int, name: str) -> int:
    """The end of an environment's own arguments."""
    for _ in range(3):
        found = optional(text, position)
        if found is None:
            break
        position = found[1]
    for _ in range(_ARGUMENTS.get(name, 0)):
        found = argument(text, position)
        if found is None:
            break
        position = found[1]
        skipped = optional(text, position)
        position = skipped[1] if skipped and name.startswith(("wrap", "sub")) else position
    return position


def apply_signature(signature: str, text: str, position: int) -> tuple[str, int]:
    """Drop a command's arguments; a kept one stays in the text and is read from there."""
    kept = ""
    if text[position : position + 1] == "*":
        position += 1
    for i, mark in enumerate(signature):
        if mark == "+":
            if i == len(signature) - 1:
                return kept, position
            found = argument(text, position)
            kept += found[0] if found else ""
        else:
            found = optional(text, position) if mark == "o" else argument(text, position)
        if found is not None:
            position = found[1]
    return kept, position


def find_unescaped(text: str, mark: str, position: int) -> int:
    r"""Where ``mark`` stands next, not behind a backslash of its own; -1 for nowhere."""
    while True:
        found = text.find(mark, position)
        if found < 0 or not _is_escaped(text, found):
            return found
        position = found + 1


def _is_escaped(text: str, position: int) -> bool:
    slashes = 0
    while position - slashes > 0 and text[position - slashes - 1] == "\\":
        slashes += 1
    return slashes % 2 == 1


def find_end(text: str, name: str, position: int, missing: set[str]) -> tuple[int, int] | None:
    r"""(start, end) of the ``\end`` that belongs to an environment begun before ``position``."""
    if name in missing:
        return None
    depth = 1
    mark = re.escape(name)
    for match in re.compile(rf"\\(begin|end)\s*\{{\s*{mark}\s*\}}").finditer(text, position):
        depth += 1 if match[1] == "begin" else -1
        if not depth:
            return match.start(), match.end()
    missing.add(name)
    return None


def clean_math(latex: str) -> str:
    """A formula as written, without labels, numbering marks and line breaks of the source."""
    latex = re.sub(r"\\label\s*\{[^{}]*\}|\\(?:nonumber|notag|allowbreak)(?![A-Za-z])", "", latex)
    latex = re.sub(r"\\ensuremath\s*\{([^{}]*)\}", r"\1", latex)
    return " ".join(latex.split())


def split_items(body: str) -> Iterator[tuple[str, str]]:
    r"""(label, source) of each ``\item`` of a list, those of lists inside left alone."""
    depth, start, label = 0, None, ""
    for match in re.finditer(r"\\begin\s*\{|\\end\s*\{|\\item(?![A-Za-z])", body):
        if match[0].startswith("\\item"):
            if depth:
                continue
            if start is not None:
                yield label, body[start : match.start()]
            found = optional(body, match.end())
            label, start = (found[0], found[1]) if found else ("", match.end())
        else:
            depth = max(0, depth + (1 if match[0].startswith("\\begin") else -1))
    if start is not None:
        yield label, body[start:]


def find_arguments(text: str, command: str) -> Iterator[str]:
    """Braced arguments of every use of a command."""
    for match in re.finditer(rf"\\{command}(?![A-Za-z])", text):
        skipped = optional(text, match.end())
        found = argument(text, skipped[1] if skipped else match.end())
        if found:
            yield found[0]

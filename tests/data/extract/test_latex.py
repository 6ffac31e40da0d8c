r"""LaTeX sources: formulas as written, macros written out, tables with spans, nothing of the machinery."""

from __future__ import annotations

import io
import tarfile

import pytest

from athanor.data.extract.latex import extract_latex, extract_latex_archive
from athanor.data.extract.types import Unreadable


def text(body: str, preamble: str = "") -> str:
    source = f"\\documentclass{{article}}\n{preamble}\n\\begin{{document}}\n{body}\n\\end{{document}}\nrest"
    return extract_latex(source.encode()).text.strip()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (r"\section{One} \subsection*{Two}", "## One\n\n### Two"),
        ("lines\nof one % comment\nparagraph\n\nnext 50\\% more", "lines of one paragraph\n\nnext 50% more"),
        (r"energy $E = mc^2$ and \(a_1\)", "energy $E = mc^2$ and $a_1$"),
        (r"$a$$b$", "$a$ $b$"),
        ("\\begin{equation}\\label{e}\n x = \\frac{1}{2}\n\\end{equation}", r"$$x = \frac{1}{2}$$"),
        (r"\[ x \]", "$$x$$"),
        (r"\begin{align*}a&=b\nonumber\\c&=d\end{align*}", r"$$\begin{aligned}a&=b\\c&=d\end{aligned}$$"),
        (r"\begin{itemize}\item a \item b\begin{enumerate}\item c\end{enumerate}\end{itemize}",
         "- a\n- b\n\n    1. c"),
        (r"\begin{description}\item[Term] meaning\end{description}", "- Term: meaning"),
        (r"\textbf{bold \emph{both}} plain", "bold both plain"),
        (r"na\"{\i}ve \'el\`eve \v{S}i\c{c}a \o{} \ss", "naïve élève Šiça ø ß"),
        (r"``quoted'' it -- and --- this~here", "“quoted” it – and — this here"),
        (r"see \cite{a,b} and \citep[p.~3]{b} and \cite{c}", "see [1, 2] and [2] and [3]"),
        (r"text\footnote{a note}.", "text[^1].\n\n[^1]: a note"),
        (r"\href{http://x.org/a_b}{link} \url{http://y.org}", "link http://y.org"),
        (r"a\includegraphics[width=\linewidth]{fig.pdf}b \vspace{2cm}c \looseness=-1 d", "ab c d"),
        (r"\unknown{kept} \textcolor{red}{too}", "kept too"),
        (r"\verb|a_b $x$| ok", "`a_b $x$` ok"),
        ("\\begin{verbatim}\nx % $y$\n  \\z\n\\end{verbatim}", "```\nx % $y$\n  \\z\n```"),
        (r"\begin{theorem}All is well.\end{theorem}", "Theorem. All is well."),
        (r"中文，公式 $x$。", "中文，公式 $x$。"),
        (r"costs \$5 and $5 alone", "costs $5 and $5 alone"),
        (r"\SI{5}{\milli\second}, \qty{9.8}{\metre\per\second\squared}, \num{1e-3}, \ang{45}",
         "5 ms, 9.8 m/s², 1 × 10⁻³, 45°"),
        (r"\AE sop, \pounds 5, micro{\it scope}, x\textsuperscript{2}", "Æsop, £5, microscope, x²"),
        ("中文\n换行，\n不加空格 and\nEnglish", "中文换行，不加空格 and English"),
        (r"a \iffalse hidden \iftrue x\fi\fi b \hbox to 3cm{box} \vskip 1cm plus 2pt c", "a b box c"),
        ("\\begin{lstlisting}[language=Python]\nx = 1\n\\end{lstlisting}", "```python\nx = 1\n```"),
        ("\\begin{minted}[linenos]{c++}\nint x;\n\\end{minted}", "```c++\nint x;\n```"),
        (r"\begin{tabbing}a \= b \\ c \> d\end{tabbing}", "a b\nc d"),
        (r"\begin{proof}[Proof of A] Easy.\end{proof}", "Proof of A. Easy."),
        ("\\begin{Highlighting}[]\n\\KeywordTok{def}\\NormalTok{ f(x): \\{\\}}\n\\end{Highlighting}",
         "```\ndef f(x): {}\n```"),
    ],
)  # fmt: skip
def test_constructs(source: str, expected: str) -> None:
    assert text(source) == expected


def test_macros_are_written_out_with_their_arguments() -> None:
    preamble = r"""
    \newcommand{\R}{\mathbb{R}} \newcommand\norm[1]{\lVert #1 \rVert} \newcommand{\pair}[2][x]{(#1,#2)}
    \def\ours{OurModel} \DeclareMathOperator{\softmax}{softmax} \renewcommand{\vec}[1]{\mathbf{#1}}"""
    found = text(r"\ours{} maps $\norm{\vec{v}} \in \R$, $\pair{1}$, $\pair[y]{2}$, $\softmax(z)$.", preamble)
    expected = (
        r"OurModel maps $\lVert \mathbf{v} \rVert \in \mathbb{R}$, $(x,1)$, $(y,2)$, $\operatorname{softmax}(z)$."
    )
    assert found == expected


def test_macros_that_open_environments_and_environments_of_the_source() -> None:
    preamble = r"""\newcommand{\be}{\begin{equation}}\newcommand{\ee}{\end{equation}}
    \newenvironment{idea}[1]{\begin{quote}\textbf{Idea: #1.}}{\end{quote}}"""
    found = text("\\be x \\ee\n\\begin{idea}{noise} Helps.\\end{idea}", preamble)
    assert found == "$$x$$\n\nIdea: noise. Helps."


def test_definitions_of_packages_are_written_out() -> None:
    preamble = r"""\DeclarePairedDelimiter{\abs}{\lvert}{\rvert} \NewDocumentCommand{\KL}{O{q} m}{D(#2 \| #1)}
    \let\eps\varepsilon \let\old\textbf \renewcommand{\textbf}[1]{\old{#1}}"""
    found = text(r"$\abs{x} + \abs*{y} + \KL{p} + \KL[r]{p} < \eps$ \textbf{bold}", preamble)
    expected = r"$\lvert x \rvert + \left\lvert y \right\rvert + D(p \| q) + D(p \| r) < \varepsilon$ bold"
    assert found == expected


def test_switches_of_the_source_choose_the_branch() -> None:
    preamble = r"\newif\ifdraft \draftfalse \newif\iflong \longtrue"
    body = r"\ifdraft draft\else final\fi, \iflong long\fi, \ifx\a\b kept\else both\fi $a \iff b$"
    assert text(body, preamble) == r"final, long, keptboth$a \iff b$"
    assert text(r"a \iffalse never closed") == "a never closed"


def test_theorems_as_the_source_names_and_numbers_them() -> None:
    preamble = r"""\newtheorem{thm}{Theorem}[section] \newtheorem{lem}[thm]{Lemma} \newtheorem{dl}{定理}"""
    body = r"""\section{A}\begin{thm}[Main]\label{a}X.\end{thm}\begin{lem}\label{b}Y.\end{lem}\begin{dl}Z。\end{dl}
    By \cref{a}, \Cref{b}, \ref{b}, \cref{e} and \eqref{e}.\begin{equation}\label{e}x\end{equation}"""
    assert text(body, preamble) == (
        "## A\n\nTheorem (Main). X.\n\nLemma. Y.\n\n定理. Z。\n\n"
        "By theorem 1.1, Lemma 1.2, 1.2, equation (1) and (1).\n\n$$x$$"
    )


def test_pseudocode_keeps_its_lines() -> None:
    body = r"""\begin{algorithmic}[1]\Require $x$ \FOR{$i<n$} \STATE a \COMMENT{why} \If{c} \State b \EndIf \ENDFOR
    \Return $y$\end{algorithmic}"""
    expected = "Require: $x$\nfor $i<n$ do\n  a ▷ why\n  if c then\n    b\n  end if\nend for\nreturn $y$"
    assert text(body) == expected
    body = r"""\begin{algorithm}\caption{T}\KwIn{$x$}\While{not done}{a\; \eIf{c}{b\;}{d\;}}\end{algorithm}"""
    expected = "T\n\nInput: $x$\nwhile not done do\n  a\n  if c then\n    b\n  else\n    d\n  end\nend"
    assert text(body) == expected


def test_slides_have_their_titles_and_no_overlays() -> None:
    source = r"""\documentclass{beamer}\begin{document}\begin{frame}<1->{Title}\tableofcontents[currentsection]
    \begin{itemize}[<+->]\item<2-> \alert<3>{one} \only<4->{two} $a<b$\end{itemize}
    \begin{block}{Name} text\end{block}\end{frame}\begin{frame}\frametitle{Second} x\end{frame}\end{document}"""
    found = extract_latex(source.encode()).text.strip()
    assert found == "### Title\n\n- one two $a<b$\n\nName\n\ntext\n\n### Second\n\nx"


def test_long_tables_have_one_head() -> None:
    body = r"""\begin{longtable}{ll}\caption{T}\\ \hline a & b \\ \endfirsthead \hline a & b \\ \endhead
    \multicolumn{2}{r}{continued}\\ \endfoot \hline \endlastfoot 1 & 2 \\ \end{longtable}"""
    assert text(body) == "T\n\n| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_encodings_of_sources() -> None:
    chinese = "\\documentclass{ctexart}\\begin{document}本文研究素数的分布规律，并给出定理。\\end{document}"
    french = "\\documentclass{article}\\begin{document}très élevé, à côté\\end{document}"
    polish = "\\usepackage[latin2]{inputenc}\\begin{document}żółw\\end{document}"
    assert "本文研究素数的分布规律" in extract_latex(chinese.encode("gb18030")).text
    assert "très élevé, à côté" in extract_latex(french.encode("latin-1")).text
    assert "żółw" in extract_latex(polish.encode("iso-8859-2")).text


def test_macros_of_a_package_beside_the_paper() -> None:
    package = rb"""\ProvidesPackage{mine} \newcommand{\R}{\mathbb{R}} % sets
    \def\section{\vskip 1em\bf} \newcommand{\boxed@it}[1]{\vbox{#1}} \newcommand{\ours}{OurModel}"""
    paper = (
        rb"\documentclass{article}\usepackage{amsmath,mine}\begin{document}\section{One}\ours{} in $\R$.\end{document}"
    )
    files = {"paper/main.tex": paper, "paper/mine.sty": package}
    assert extract_latex_archive(archive(files)).text == "## One\n\nOurModel in $\\mathbb{R}$.\n"


def test_macros_that_never_end_do_end() -> None:
    loop = r"\newcommand{\a}{\b\b}\newcommand{\b}{\c\c}\newcommand{\c}{\a\a x}"
    found = extract_latex((loop + r"\documentclass{article}\begin{document}before \a after\end{document}").encode())
    assert found.text.startswith("before") and len(found.text) < 20_000_000


def test_tables_with_spans_rules_and_tables_inside() -> None:
    source = r"""
    \begin{table}\caption{Numbers}\begin{tabular}{l|cc}\toprule
    \multirow{2}{*}{Model} & \multicolumn{2}{c}{BLEU} \\ \cmidrule(lr){2-3}
     & EN & \begin{tabular}{@{}c@{}}two\\lines\end{tabular} \\ \midrule
    base & $27.3$ & 38 \\[2pt] big \& more & 28 & \\ \bottomrule
    \end{tabular}\end{table}"""
    assert text(source) == (
        "Numbers\n\n<table>\n"
        '<tr><td rowspan="2">Model</td><td colspan="2">BLEU</td></tr>\n'
        "<tr><td>EN</td><td>two lines</td></tr>\n"
        "<tr><td>base</td><td>$27.3$</td><td>38</td></tr>\n"
        "<tr><td>big &amp; more</td><td>28</td><td></td></tr>\n</table>"
    )


def test_references_are_the_numbers_that_latex_would_print() -> None:
    source = r"""\section{A}\label{a}\section{B}\subsection{C}\label{c}
    \begin{equation}x\label{e1}\end{equation} \begin{figure}\caption{F}\label{f}\end{figure}
    \begin{align}y\label{e2}\\z\label{e3}\end{align}
    See \ref{a}, \ref{c}, \eqref{e1}, \eqref{e3}, Figure~\ref{f}, \ref{none}."""
    assert text(source).endswith("See 1, 2.1, (1), (3), Figure 1, ?.")


def test_title_abstract_and_what_is_left_out() -> None:
    source = r"""\title{On \LaTeX}\maketitle\begin{abstract}Short.\end{abstract}Text.
    \bibliographystyle{plain}\begin{thebibliography}{9}\bibitem{a}Someone.\end{thebibliography}
    \begin{tikzpicture}\draw (0,0);\end{tikzpicture}\begin{comment}gone\end{comment}"""
    found = extract_latex(f"\\documentclass{{a}}\\begin{{document}}{source}\\end{{document}}".encode())
    assert found.text == "# On LaTeX\n\n## Abstract\n\nShort.\n\nText.\n" and found.meta["title"] == "On LaTeX"


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, raw in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            made.addfile(info, io.BytesIO(raw))
    return out.getvalue()


def test_papers_as_archives_are_put_together_from_their_main_file() -> None:
    main = rb"\documentclass{a}\begin{document}start \input{sections/one} \input{../evil} end\end{document}"
    files = {
        "macros.tex": rb"\newcommand{\x}{1}",
        "p/main.tex": main,
        "p/sections/one.tex": b"one \\input{sections/two}",
    }
    files |= {"p/sections/two.tex": b"two \\input{sections/one}", "evil.tex": b"evil", "p/fig.pdf": b"%PDF"}
    found = extract_latex_archive(archive(files))
    assert found.text.startswith("start one two one two") and found.text.endswith("end\n")
    assert found.meta["main_file"] == "p/main.tex"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (archive({"a.tex": b"no document"}), "no LaTeX document"),
        (archive({"a.tex": b"x" * 3000})[:1200], "broken archive"),
        (b"not a tar", "broken archive"),
    ],
)
def test_broken_archives_are_told_why(raw: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        extract_latex_archive(raw)
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    "hostile",
    [
        "{" * 100_000 + "x",
        "\\begin{itemize}\\item " * 3_000 + "x",
        "\\begin{tabular}{c}" * 3_000 + "x",
        "$" * 50_001 + "x",
        "\\(" * 50_000 + "x",
        "\\footnote{" * 1_000 + "x",
        "\\begin{verbatim}" * 20_000 + "x",
        "\\vspace{" * 20_000 + "x",
        "\\begin{algorithmic}" + "\\If{a" * 10_000 + "\\end{algorithmic}x",
        "\\begin{tabbing}" + "a\\=\\\\" * 10_000 + "\\end{tabbing}x",
        "\\iffalse\\fi " * 20_000 + "x",
    ],
)
def test_hostile_sources_cost_seconds_at_most(hostile: str) -> None:
    assert "x" in text(hostile)

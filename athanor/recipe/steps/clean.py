"""Options of the cleaning steps. A threshold that is null switches its rule off.

Sources: Gopher (arXiv 2112.11446, table A1 and appendix A1.1), C4 (arXiv 1910.10683, section 2.2), FineWeb (arXiv
2406.17557, section 3.6), ChineseWebText (arXiv 2311.01149), The Stack and StarCoder (arXiv 2211.15533, 2305.06161),
StarCoder 2 (arXiv 2402.19173, section 3). What has no source was set on the texts that docs/data-cleaning.md names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from athanor.model.config import Strict

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class NormaliseOptions(Strict):
    """Encoding and format repair. Of documents of ``code_domains`` only line ends and hidden controls are touched."""

    step: Literal["normalise"] = "normalise"
    code_domains: tuple[str, ...] = ("code",)
    #: text decoded with the wrong encoding (UTF-8 as Latin-1 or GBK, GBK as Latin-1) is decoded anew
    repair: bool = True
    #: canonical composition; compatibility forms (②, ﬁ, ，) are never touched
    nfc: bool = True
    #: no-break, thin and other spaces of Unicode become U+0020; the ideographic space stays
    spaces: bool = True
    #: left-over HTML entities are decoded
    entities: bool = False
    #: white space at line ends goes, but in code blocks and for the two blanks of a Markdown line break
    trailing_blanks: bool = True
    #: longer runs of blank lines are cut to this
    max_blank_lines: Count | None = 2
    #: documents with more U+FFFD, private-use and unmapped characters than this are dropped
    max_garbled_share: Share | None = 0.02


class LanguageOptions(Strict):
    """Language identification; documents of ``code_domains`` and those that look like code are not judged."""

    step: Literal["language"] = "language"
    code_domains: tuple[str, ...] = ("code",)
    #: keep only these (null: all)
    languages: tuple[str, ...] | None = None
    #: keep what could not be told (too short, only numbers) although ``languages`` is given
    keep_unknown: bool = False
    #: below this confidence the language is "und"
    min_confidence: Share = 0.5
    #: drop simplified ("hans") or traditional ("hant") Chinese by keeping only this
    chinese: Literal["hans", "hant"] | None = None
    #: letters that a document needs to be judged; a Han character, kana or Hangul syllable counts as three
    min_letters: Count = 10
    #: bytes that the model reads of a document
    sample_bytes: Annotated[int, Field(ge=64)] = 600


class GopherOptions(Strict):
    """Gopher's quality rules; for languages that separate words by spaces."""

    step: Literal["gopher"] = "gopher"
    skip_domains: tuple[str, ...] = ("code", "math", "mathematics")
    min_words: Count | None = 50
    max_words: Count | None = 100_000
    min_mean_word_chars: float | None = 3
    max_mean_word_chars: float | None = 10
    max_symbols_per_word: float | None = 0.1
    max_bullet_lines: Share | None = 0.9
    max_ellipsis_lines: Share | None = 0.3
    min_alpha_words: Share | None = 0.8
    min_stop_words: Count | None = 2
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")


class RepetitionOptions(Strict):
    """Gopher's repetition rules; in languages without spaces n-grams of characters take the place of those of words."""

    step: Literal["repetition"] = "repetition"
    skip_domains: tuple[str, ...] = ("code",)
    #: sources that are not judged (null: those whose tasks are generated, which a recipe fills in by their ``kind``):
    #: a short task with its solution repeats itself by its nature
    skip_sources: tuple[str, ...] | None = None
    max_dup_lines: Share | None = 0.3
    max_dup_paragraphs: Share | None = 0.3
    max_dup_line_chars: Share | None = 0.2
    max_dup_paragraph_chars: Share | None = 0.2
    #: n → greatest share of characters in the most frequent n-gram
    top_words: dict[int, Share] = {2: 0.2, 3: 0.18, 4: 0.16}
    #: n → greatest share of characters in n-grams that occurred before
    dup_words: dict[int, Share] = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}
    #: the same by characters (ChineseWebText allows 0.5 in sequences of 13)
    top_chars: dict[int, Share] = {3: 0.12, 5: 0.12, 7: 0.12}
    dup_chars: dict[int, Share] = {8: 0.4, 10: 0.36, 13: 0.32, 16: 0.3}


class C4Options(Strict):
    """C4's rules on lines, then on documents; both languages.

    Two of C4's rules are off: FineWeb found that ``terminal_punctuation`` costs 30 % of the text, and
    ``curly_bracket`` drops every document with a LaTeX formula.
    """

    step: Literal["c4"] = "c4"
    skip_domains: tuple[str, ...] = ("code", "math", "mathematics")
    terminal_punctuation: bool = False
    #: Headings, list items, table rows, formulas and fenced code of Markdown pass the rules on lines
    keep_structure: bool = True
    min_words_per_line: Count = 3
    #: letters and digits, where words are not separated and the line ends no sentence
    min_chars_per_line: Count = 5
    max_word_chars: Count | None = 1000
    javascript: bool = True
    policy: bool = True
    citations: bool = True
    lorem_ipsum: bool = True
    curly_bracket: bool = False
    min_sentences: Count | None = 5


class FineWebOptions(Strict):
    """FineWeb's rules on the shape of lines; for languages that separate words by spaces."""

    step: Literal["fineweb"] = "fineweb"
    skip_domains: tuple[str, ...] = ("code", "math", "mathematics")
    min_terminal_lines: Share | None = 0.12
    max_short_lines: Share | None = 0.67
    short_line_chars: Count = 30
    max_dup_line_chars: Share | None = 0.01
    max_newlines_per_word: float | None = 0.3


class ChineseOptions(Strict):
    """The shape of Chinese text by characters and lines; for documents in Chinese."""

    step: Literal["chinese"] = "chinese"
    skip_domains: tuple[str, ...] = ("code", "math", "mathematics")
    #: ChineseWebText: 200 characters, of which 30 % Chinese, and 10 a line
    min_chars: Count | None = 200
    max_chars: Count | None = 500_000
    min_han: Share | None = 0.3
    min_mean_line_chars: float | None = 10
    #: share of lines that end a sentence
    min_terminal_lines: Share | None = 0.1
    max_short_lines: Share | None = 0.8
    short_line_chars: Count = 10
    #: punctuation and symbols in all characters but white space: below, keywords strung together; above, debris
    min_symbols: Share | None = 0.02
    max_symbols: Share | None = 0.45
    max_digits: Share | None = 0.3
    #: characters between two marks that end a sentence or a clause, on average
    max_mean_clause_chars: float | None = 80
    max_ellipsis_lines: Share | None = 0.3
    max_bullet_lines: Share | None = 0.9


class CodeOptions(Strict):
    """Generated, minified and data files, licences; for code (its domain, or a file name that tells)."""

    step: Literal["code"] = "code"
    domains: tuple[str, ...] = ("code",)
    #: The Stack: longest line, mean line, letters and digits
    max_line_chars: Count | None = 1000
    max_mean_line_chars: float | None = 100
    min_alphanumeric: Share | None = 0.25
    #: StarCoder 2: letters
    min_letters: Share | None = 0.25
    #: file types that hold long lines by nature
    long_line_suffixes: tuple[str, ...] = ("html", "json", "md", "markdown", "rst", "tex", "txt", "xml", "ipynb")
    min_lines: Count | None = 3
    max_lines: Count | None = 100_000
    min_space: Share | None = 0.02
    #: StarCoder 2: base64, hexadecimal and \\x escapes, the longest run and the share of the file
    max_encoded_run: Count | None = 1024
    max_encoded: Share | None = 0.5
    generated: bool = True
    vendored: bool = True
    #: keep files under these licences only (SPDX identifiers; null: all)
    licences: tuple[str, ...] | None = None
    #: keep files that tell no licence although ``licences`` is given
    keep_unlicensed: bool = True


class IrrelevantOptions(Strict):
    """Pages that are no text: navigation, errors, cookie notices, login walls, advertising, placeholders."""

    step: Literal["irrelevant"] = "irrelevant"
    skip_domains: tuple[str, ...] = ("code",)
    #: share of lines that are boilerplate, if there are so many of them; share of characters in them
    max_lines: Share | None = 0.4
    min_boilerplate_lines: Count = 3
    max_chars: Share | None = 0.3
    #: error pages, login walls and placeholders are dropped below so many characters
    max_page_chars: Count | None = 800
    #: advertising phrases for each thousand characters
    max_adverts_per_1000_chars: float | None = 6
    max_lorem_ipsum: Count | None = 0
    #: boilerplate lines are taken out of documents that stay
    remove_lines: bool = True

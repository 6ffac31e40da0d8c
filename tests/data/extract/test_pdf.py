"""PDFs drawn here line by line: reading order, paragraphs, headings, tables, furniture, scans, damage."""

from __future__ import annotations

import pytest

from athanor.data.extract.pdf import extract_pdf
from athanor.data.extract.types import Unreadable
from tests.data.extract.made import pdf, rule, text_at

LINES = [
    "The quick brown fox jumps over the lazy dog and then it runs through",
    "the whole forest until evening comes, because nobody has told the extra-",
    "ordinary animal where its home would be found again.",
]


def block(x: float, y: float, lines: list[str], size: float = 10, font: str = "F1") -> str:
    return "".join(text_at(x, y - 12 * i, line, size, font) for i, line in enumerate(lines))


def test_lines_become_paragraphs_and_cut_words_are_joined() -> None:
    page = block(72, 700, LINES) + block(72, 640, ["A second paragraph stands here."])
    found = extract_pdf(pdf([page]))
    first, second = found.text.strip().split("\n\n")
    assert first.startswith("The quick brown fox") and "told the extraordinary animal" in first and "\n" not in first
    assert second == "A second paragraph stands here."
    assert found.meta == {"format": "pdf", "pages": 1, "tables": 0}


def test_headings_by_size_and_by_weight() -> None:
    page = (
        text_at(72, 740, "Big title", 20) + text_at(72, 700, "2.1 Bold section", 10, "F2") + block(72, 680, LINES * 2)
    )
    parts = extract_pdf(pdf([page])).text.split("\n\n")
    assert parts[0] == "# Big title" and parts[1] == "### 2.1 Bold section" and parts[2].startswith("The quick")


def test_columns_are_read_one_after_the_other_whatever_the_order_of_drawing() -> None:
    left = [f"left column line number {i} of the text" for i in range(12)]
    right = [f"right column line number {i} of the text" for i in range(12)]
    drawn = "".join(
        text_at(320, 700 - 12 * i, right[i]) + text_at(60, 700 - 12 * i, left[i]) for i in reversed(range(12))
    )
    text = " ".join(extract_pdf(pdf([drawn])).text.split())
    places = [text.index(line) for line in left + right]
    assert places == sorted(places)


def grid(xs: list[int], ys: list[int]) -> str:
    lines = [rule(x, ys[0], x, ys[-1]) for x in xs] + [rule(xs[0], y, xs[-1], y) for y in ys]
    return "".join(lines)


def test_ruled_tables() -> None:
    xs, ys = [72, 172, 272, 372], [600, 580, 560, 540]
    cells = [["year", "ducks", "geese"], ["2019", "120", "80"], ["2020", "135", "95"]]
    drawn = grid(xs, ys) + "".join(
        text_at(xs[c] + 5, ys[r] - 14, value) for r, row in enumerate(cells) for c, value in enumerate(row)
    )
    found = extract_pdf(pdf([block(72, 700, LINES) + drawn + block(72, 500, ["After the table."])]))
    table = "| year | ducks | geese |\n| --- | --- | --- |\n| 2019 | 120 | 80 |\n| 2020 | 135 | 95 |"
    assert found.text.index("The quick") < found.text.index(table) < found.text.index("After the table.")
    assert found.meta["tables"] == 1


def test_a_cell_without_a_line_inside_spans() -> None:
    xs, ys = [72, 172, 272], [600, 580, 560]
    drawn = "".join(rule(xs[0], y, xs[2], y) for y in ys) + rule(72, 600, 72, 560) + rule(272, 600, 272, 560)
    drawn += rule(172, 580, 172, 560)
    texts = (
        text_at(77, 586, "over both and") + text_at(177, 586, "more") + text_at(77, 566, "a") + text_at(177, 566, "b")
    )
    more = rule(72, 540, 272, 540) + rule(72, 560, 72, 540) + rule(172, 560, 172, 540) + rule(272, 560, 272, 540)
    more += text_at(77, 546, "c") + text_at(177, 546, "d")
    assert '<td colspan="2">over both and more</td>' in extract_pdf(pdf([drawn + texts + more])).text


def test_tables_without_rulings_by_aligned_gaps_and_prose_is_none() -> None:
    rows = [["Item", "Price", "Stock"], ["apples", "1.20", "40"], ["pears", "2.10", "7"], ["plums", "0.90", "112"]]
    drawn = "".join(
        text_at(72 + 120 * c, 600 - 13 * r, value) for r, row in enumerate(rows) for c, value in enumerate(row)
    )
    assert "| apples | 1.20 | 40 |" in extract_pdf(pdf([drawn])).text
    assert extract_pdf(pdf([block(72, 700, LINES * 4)])).meta["tables"] == 0


def test_running_headers_and_page_numbers_go() -> None:
    pages = [
        text_at(72, 770, f"Annual report {2000 + i}")
        + text_at(300, 20, str(i))
        + block(72, 600, [f"Body of page {i}."])
        for i in range(1, 5)
    ]
    text = extract_pdf(pdf(pages)).text
    assert text.split("\n\n") == ["Body of page 1.", "Body of page 2.", "Body of page 3.", "Body of page 4.\n"]


def test_running_titles_of_files_that_lack_pages() -> None:
    pages = [
        text_at(72, 770, f"{number} A report on things to come") + block(72, 600, [f"Body of page {number}."])
        for number in (78, 79, 84, 90)
    ]
    assert "A report" not in extract_pdf(pdf(pages)).text


def test_what_runs_along_a_margin_cuts_no_columns_and_goes() -> None:
    pages = []
    for page in range(4):
        left = [f"left {page} column line number {i} of the text" for i in range(12)]
        right = [f"right {page} column line number {i} of the text" for i in range(12)]
        drawn = "".join(
            text_at(320, 600 - 12 * i, right[i]) + text_at(60, 600 - 12 * i, left[i]) for i in reversed(range(12))
        )
        pages.append(
            turned(30, 450, f"Proof of {page + 1} by nobody") + drawn + text_at(60, 400, f"A line {page} below")
        )
    found = extract_pdf(pdf(pages)).text
    assert "nobody" not in found
    places = [found.index(f"left 2 column line number {i} of") for i in range(12)]
    places += [found.index(f"right 2 column line number {i} of") for i in range(12)]
    assert places == sorted(places)


def test_paragraphs_run_on_over_the_page() -> None:
    pages = [block(72, 700, [*LINES[:1], "and the sentence that begins here does not end before the page"])]
    pages.append(block(72, 700, ["is over, but on the next one."]))
    assert "before the page is over, but" in extract_pdf(pdf(pages)).text


SCAN = "q 612 0 0 792 0 0 cm /Im Do Q\n"


def test_scanned_pages_are_told_apart() -> None:
    found = extract_pdf(pdf([block(72, 700, LINES), SCAN]))
    assert found.meta["scanned_pages"] == [2] and found.meta["pages"] == 2
    with pytest.raises(Unreadable) as caught:
        extract_pdf(pdf([SCAN, SCAN]))
    assert caught.value.reason == "scanned: 2 of 2 pages are images without text"


def encrypted() -> bytes:
    """A PDF whose encryption dictionary no empty password opens (its check values are zeros)."""
    plain = pdf([text_at(72, 700, "secret")])
    zeros = "0" * 64
    entry = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{zeros}> /U <{zeros}> /P -4 >> /ID [<{zeros}> <{zeros}>]"
    return plain.replace(b"/Root 1 0 R >>", f"/Root 1 0 R {entry} >>".encode())


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (encrypted(), "encrypted"),
        (b"%PDF-1.4\nnothing more", "broken pdf"),
        (pdf([text_at(72, 700, "x")])[:60], "broken pdf"),
        (pdf([""]), "empty"),
        (b"", "broken pdf"),
    ],
)
def test_broken_pdfs_are_told_why(raw: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        extract_pdf(raw)
    assert caught.value.reason.startswith(reason)


def test_a_document_without_pages_is_not_called_encrypted() -> None:
    for raw in (encrypted(), pdf([])):  # pdfium keeps the reason of the document before
        with pytest.raises(Unreadable) as caught:
            extract_pdf(raw)
    assert caught.value.reason.startswith("broken pdf")


def test_a_title_in_the_middle_stands_above_the_heading_at_the_left() -> None:
    furniture = text_at(60, 770, "Journal of things") + text_at(480, 770, "An author") + text_at(300, 60, "the foot")
    titles = text_at(230, 700, "The whole title", 20, "F2") + text_at(72, 678, "1 Overview", 20, "F2")
    found = extract_pdf(pdf([furniture + titles + block(72, 650, LINES)])).text
    assert found.index("The whole title") < found.index("1 Overview") < found.index("The quick brown fox")


def test_a_heading_stands_above_the_table_below_it() -> None:
    xs, ys = [250, 300, 350], [640, 620, 600]
    cells = "".join(text_at(xs[c] + 5, ys[r] - 14, f"c{r}{c}") for r in range(2) for c in range(2))
    page = block(72, 720, LINES) + text_at(72, 655, "2 Data", 14, "F2") + grid(xs, ys) + cells + block(72, 580, LINES)
    parts = extract_pdf(pdf([page])).text.split("\n\n")
    assert [part.split(" ")[0] for part in parts] == ["The", "#", "|", "The"]


def test_one_bold_word_and_raised_characters_make_no_heading() -> None:
    bold = "BT /F1 10 Tf 72 700 Td (Some words before the ) Tj /F2 10 Tf (bold) Tj /F1 10 Tf ( one, and after) Tj ET\n"
    raised = "BT /F1 10 Tf 72 688 Td (it a term) Tj 4 Ts /F1 7 Tf (12) Tj 0 Ts /F1 10 Tf ( and some more words) Tj ET\n"
    found = extract_pdf(pdf([bold + raised + block(72, 676, LINES)])).text
    assert "#" not in found and "Some words before the bold one, and after it a term" in found


def test_notes_at_the_foot_do_not_cut_the_paragraph_that_goes_on() -> None:
    sentence = [*LINES[:1], "and the sentence that begins here does not end before the page"]
    first = block(72, 700, sentence) + text_at(72, 90, "1 A note in small letters at the foot.", 8)
    found = extract_pdf(pdf([first, block(72, 700, ["is over, but on the next one."])])).text
    assert "before the page is over, but on the next one.\n\n1 A note in small" in found


def test_a_page_number_alone_goes_from_a_single_page() -> None:
    page = block(72, 700, LINES)
    for number in ("- 12 -", "Page 3 of 7", "12"):
        assert number not in extract_pdf(pdf([page + text_at(290, 30, number)])).text
    assert "Figure 12" in extract_pdf(pdf([page + text_at(290, 30, "Figure 12")])).text


def test_hyphens_of_their_own_stay() -> None:
    lines = [
        "This is the state-of-the-",
        "art, that of the years 1999-",
        "2000, and there are extra-",
        "ordinary ones.",
    ]
    found = extract_pdf(pdf([block(72, 700, lines)])).text
    assert found == "This is the state-of-the-art, that of the years 1999-2000, and there are extraordinary ones.\n"


def turned(x: float, y: float, text: str, matrix: str = "0 1 -1 0", size: float = 10) -> str:
    return f"BT /F1 {size} Tf {matrix} {x} {y} Tm ({text}) Tj ET\n"


def test_text_set_sideways_is_read_as_it_stands_upright() -> None:
    page = "".join(turned(100 + 12 * i, 72, line) for i, line in enumerate(LINES))
    assert extract_pdf(pdf([page])).text == extract_pdf(pdf([block(72, 700, LINES)])).text
    stamp = turned(30, 300, "arXiv:1234.5678v1 [cs.LG] 1 Jan 2020") + turned(200, 300, "DRAFT", ".7 .7 -.7 .7", 60)
    found = extract_pdf(pdf([block(72, 700, LINES * 4) + stamp])).text
    assert "arXiv:1234.5678v1 [cs.LG] 1 Jan 2020" in found.split("\n\n")[-1] and "DRAFT" not in found


def test_columns_of_vertical_chinese_are_one_paragraph() -> None:
    def column(x: float, letters: str) -> str:
        return "".join(text_at(x, 700 - 18 * i, letter, 16, "F3") for i, letter in enumerate(letters))

    right, left = "abdeghno", "opqubdga"  # of one width
    expected = "".join(chr(0x4E00 + ord(letter) - ord("a")) for letter in right + left)
    assert extract_pdf(pdf([column(400, right) + column(385, left)])).text == f"{expected}\n"


def wide_table(y: float) -> str:
    rows = [["Model", "a", "b", "c", "d", "e"], *([f"Model {i}", *(f"{i}.{k}" for k in range(5))] for i in range(5))]
    places = [60, 150, 240, 330, 420, 510]
    return "".join(text_at(places[c], y - 12 * r, v) for r, row in enumerate(rows) for c, v in enumerate(row))


def test_a_table_over_both_columns_is_one() -> None:
    prose = [f"prose number {i} that fills the whole of its column here" for i in range(30)]
    columns = block(50, 600, prose[:30]) + block(320, 600, prose[:30])
    found = extract_pdf(pdf([wide_table(720) + columns]))
    assert found.meta["tables"] == 1 and "| Model 3 | 3.0 | 3.1 | 3.2 | 3.3 | 3.4 |" in found.text
    assert found.text.index("| Model 3") < found.text.index("prose number 0")


def test_a_table_that_goes_over_the_page_loses_no_row() -> None:
    pages = []
    for page in range(3):
        rows = [["ID", "Name", "Value"], *([str(i), f"name {i}", f"{i}.5"] for i in range(page * 20, page * 20 + 20))]
        ys = [770 - 20 * k for k in range(len(rows) + 1)]
        cells = "".join(
            text_at(75 + 100 * c, ys[r] - 14, value) for r, row in enumerate(rows) for c, value in enumerate(row)
        )
        pages.append(grid([72, 172, 272, 372], ys) + cells)
    pages[0] = block(72, 785, ["A title"]) + pages[0]
    found = extract_pdf(pdf([*pages, block(72, 700, LINES)]))
    assert found.meta["tables"] == 1 and found.text.count("| ID |") == 1
    assert all(f"| {i} | name {i} | {i}.5 |" in found.text for i in range(60))


def test_lines_of_a_page_of_contents_go() -> None:
    lines = [f"{i} A chapter {'.' * (60 - i)} {i * 7}" for i in range(1, 6)]
    found = extract_pdf(pdf([text_at(72, 720, "Contents", 16) + block(72, 700, lines), block(72, 700, LINES)])).text
    assert "A chapter" not in found and "The quick" in found


def test_displayed_lines_and_sentences_over_columns() -> None:
    formula = text_at(220, 664, "L = sum of p (1)")
    found = extract_pdf(pdf([block(72, 700, LINES[:2] + [LINES[0]]) + formula + block(72, 652, LINES)])).text
    assert "\n\nL = sum of p (1)\n\nThe quick" in found
    left = [f"left line number {i} of a sentence that has no end there and" for i in range(12)]
    right = [f"right line number {i} of the same sentence goes on and on" for i in range(12)]
    found = extract_pdf(pdf([block(50, 700, left) + block(330, 700, right)])).text
    assert "no end there and right line number 0" in found


def test_listings_keep_their_lines_and_indentation() -> None:
    code = [(72, "def f(x):"), (96, "if x > 1:"), (120, "return x * 2"), (96, "return x")]
    drawn = [text_at(x, 600 - 12 * i, line, 10, "F4") for i, (x, line) in enumerate(code)]
    typed = "".join([*drawn[:2], text_at(240, 588, "# a remark", 10, "F4"), *drawn[2:]])
    found = extract_pdf(pdf([block(72, 700, LINES) + typed + block(72, 520, LINES)])).text.split("\n\n")
    expected = "```\ndef f(x):\n    if x > 1:               # a remark\n        return x * 2\n    return x\n```"
    assert found[1] == expected and found[0].startswith("The quick") and found[2].startswith("The quick")
    assert "```" not in extract_pdf(pdf([block(72, 700, LINES * 2, 10, "F4")])).text  # a typewritten document


def test_a_table_in_one_column_beside_prose_in_the_other() -> None:
    prose = [f"prose number {i} that fills the whole of its column here" for i in range(30)]
    rows = [["a", "b", "c"], *([f"r{i}", f"{i}.5", f"{i * i}"] for i in range(6))]
    left = block(50, 700, prose[:30])
    right = block(320, 700, prose[:12]) + block(320, 440, prose[12:22])
    cells = "".join(text_at(320 + 80 * c, 540 - 12 * r, v) for r, row in enumerate(rows) for c, v in enumerate(row))
    found = extract_pdf(pdf([left + right + cells]))
    assert found.meta["tables"] == 1 and "| r3 | 3.5 | 9 |" in found.text
    assert all(f"prose number {i} that" in found.text for i in range(30))
    assert "prose" not in "".join(line for line in found.text.splitlines() if line.startswith("|"))

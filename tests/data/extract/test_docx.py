"""Word files: what a person sees of headings, lists, tables, formulas, notes and code, and nothing else."""

from __future__ import annotations

import io
import zipfile

import docx as python_docx
import pytest

from athanor.data.extract.docx import extract_docx
from athanor.data.extract.types import Unreadable
from tests.data.extract.made import bomb, docx

P = "<w:p><w:r><w:t>{}</w:t></w:r></w:p>"
STYLES = """
<w:style w:type="paragraph" w:styleId="H1"><w:name w:val="heading 1"/></w:style>
<w:style w:type="paragraph" w:styleId="H2"><w:name w:val="Mine"/><w:basedOn w:val="H1"/>
 <w:pPr><w:outlineLvl w:val="1"/></w:pPr></w:style>
<w:style w:type="paragraph" w:styleId="T"><w:name w:val="Title"/></w:style>
<w:style w:type="paragraph" w:styleId="C"><w:name w:val="Source Code"/></w:style>
<w:style w:type="paragraph" w:styleId="TOC1"><w:name w:val="toc 1"/></w:style>
"""
NUMBERING = """
<w:abstractNum w:abstractNumId="0">
 <w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl>
 <w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="lowerLetter"/><w:lvlText w:val="%1.%2)"/></w:lvl>
</w:abstractNum>
<w:abstractNum w:abstractNumId="1">
 <w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/><w:lvlText w:val="•"/></w:lvl>
</w:abstractNum>
<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num><w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num>
"""


def styled(style: str, text: str) -> str:
    return f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr><w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


def item(text: str, level: int = 0, number: int = 1) -> str:
    place = f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr>'
    return f"<w:p><w:pPr>{place}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def cell(text: str, properties: str = "") -> str:
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{P.format(text)}</w:tc>"


def table(*rows: str) -> str:
    return "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in rows) + "</w:tbl>"


def test_headings_by_style_and_what_it_rests_on() -> None:
    body = styled("T", "All") + styled("H1", "One") + styled("H2", "Two") + styled("TOC1", "One … 1") + P.format("text")
    found = extract_docx(docx(body, STYLES))
    assert found.text == "# All\n\n## One\n\n### Two\n\ntext\n"
    assert found.meta["title"] == "All"


def test_lists_keep_their_numbers_across_what_stands_between() -> None:
    body = item("a") + item("b") + item("b1", 1) + item("b2", 1) + item("dot", 0, 2) + P.format("prose") + item("c")
    found = extract_docx(docx(body, numbering=NUMBERING)).text
    assert found == "1. a\n2. b\n    2.a) b1\n    2.b) b2\n- dot\n\nprose\n\n3. c\n"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("decimal", "3"), ("upperLetter", "C"), ("lowerRoman", "iii"), ("upperRoman", "III"), ("decimalZero", "03"),
        ("chineseCounting", "三"), ("decimalEnclosedCircle", "③"),
    ],
)  # fmt: skip
def test_numbers_of_headings_as_they_are_printed(kind: str, expected: str) -> None:
    level = f'<w:lvl w:ilvl="0"><w:start w:val="3"/><w:numFmt w:val="{kind}"/><w:lvlText w:val="第%1章"/></w:lvl>'
    numbering = f'<w:abstractNum w:abstractNumId="0">{level}</w:abstractNum>'
    numbering += '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num>'
    place = '<w:pStyle w:val="H1"/><w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr>'
    body = f"<w:p><w:pPr>{place}</w:pPr><w:r><w:t>引言</w:t></w:r></w:p>"
    assert extract_docx(docx(body, STYLES, numbering)).text == f"# 第{expected}章 引言\n"


def test_merged_cells_keep_their_spans() -> None:
    down, on = '<w:vMerge w:val="restart"/>', "<w:vMerge/>"
    rows = [cell("h", '<w:gridSpan w:val="2"/>'), cell("l", down) + cell("1"), cell("", on) + cell("2")]
    found = extract_docx(docx(table(*rows)))
    assert '<td colspan="2">h</td>' in found.text and '<td rowspan="2">l</td><td>1</td></tr>' in found.text
    assert "<tr><td>2</td></tr>" in found.text and found.meta["tables"] == 1


def test_plain_tables_formulas_in_cells_and_frames() -> None:
    math = "<w:p><m:oMathPara><m:oMath><m:r><m:t>x=1</m:t></m:r></m:oMath></m:oMathPara></w:p>"
    body = table(cell("a") + cell("b|c"), f"<w:tc>{math}</w:tc>" + cell("2"))
    assert extract_docx(docx(body)).text == "| a | b\\|c |\n| --- | --- |\n| $x=1$ | 2 |\n"
    frame = table(f"<w:tc>{P.format('inside')}{table(cell('1') + cell('2'))}</w:tc>")
    assert extract_docx(docx(frame)).text == "inside\n\n| 1 | 2 |\n| --- | --- |\n"


def test_formulas_inline_displayed_and_side_by_side() -> None:
    math = "<m:oMath><m:r><m:t>{}</m:t></m:r></m:oMath>"
    inline = f'<w:p><w:r><w:t xml:space="preserve">so </w:t></w:r>{math.format("a")}{math.format("b")}</w:p>'
    alone = f"<w:p>{math.format('c')}{math.format('d')}</w:p>"
    found = extract_docx(docx(inline + alone))
    assert found.text == "so $a$ $b$\n\n$$c$$\n\n$$d$$\n" and found.meta["formulas"] == 4


def test_deleted_hidden_and_repeated_text_is_left_out() -> None:
    body = (
        "<w:p><w:del><w:r><w:delText>old</w:delText></w:r></w:del><w:ins><w:r><w:t>new</w:t></w:r></w:ins>"
        "<w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r></w:p>"
        '<w:p><mc:AlternateContent xmlns:mc="urn:mc"><mc:Choice><w:r><w:pict><w:txbxContent>'
        f"{P.format('box')}</w:txbxContent></w:pict></w:r></mc:Choice><mc:Fallback>{P.format('box')}</mc:Fallback>"
        "</mc:AlternateContent></w:p>"
    )
    assert extract_docx(docx(body)).text == "new\n\nbox\n"


def test_tracked_changes_of_rows_and_paragraph_marks() -> None:
    gone = '<w:p><w:pPr><w:rPr><w:del w:id="1"/></w:rPr></w:pPr><w:r><w:t xml:space="preserve">{}</w:t></w:r></w:p>'
    row = "<w:tr>{}" + cell("a") + cell("b") + "</w:tr>"
    grid = "<w:tbl>" + row.format("") + row.format('<w:trPr><w:del w:id="2"/></w:trPr>') + row.format("") + "</w:tbl>"
    body = gone.format("half ") + P.format("and half.") + gone.format("before a table") + grid
    found = extract_docx(docx(body)).text
    assert found == "half and half.\n\nbefore a table\n\n| a | b |\n| --- | --- |\n| a | b |\n"


def field(instruction: str, *paragraphs: str) -> str:
    mark = '<w:r><w:fldChar w:fldCharType="{}"/></w:r>'
    head = f"{mark.format('begin')}<w:r><w:instrText>{instruction}</w:instrText></w:r>{mark.format('separate')}"
    texts = [f"<w:r><w:t>{text}</w:t></w:r>" for text in paragraphs]
    return "".join(f"<w:p>{text}</w:p>" for text in [head + texts[0], *texts[1:-1], texts[-1] + mark.format("end")])


def test_tables_of_contents_are_told_by_their_field_and_prompts_by_their_control() -> None:
    prompt = (
        "<w:p><w:sdt><w:sdtPr><w:showingPlcHdr/></w:sdtPr><w:sdtContent><w:r><w:t>Click here</w:t></w:r></w:sdtContent>"
        "</w:sdt></w:p>"
    )
    body = field(r' TOC \o "1-3" ', "One 1", "Two 2") + prompt + styled("H1", "One") + field(" SEQ x ", "1", "2")
    assert extract_docx(docx(body, STYLES)).text == "# One\n\n1\n\n2\n"
    unclosed = (
        field("TOC", "One 1", "Two 2").replace('w:fldCharType="end"', "") + styled("H1", "One") + P.format("kept")
    )
    assert extract_docx(docx(unclosed, STYLES)).text == "# One\n\nkept\n"


def test_style_names_in_chinese_and_lists_by_depth_of_their_style() -> None:
    names = {"1": "标题", "2": "标题 1", "3": "二级标题", "4": "目录 1", "5": "List Bullet 2"}
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="{key}"><w:name w:val="{name}"/></w:style>'
        for key, name in names.items()
    )
    deeper = item("inner", 0, 2).replace("<w:numPr>", '<w:pStyle w:val="5"/><w:numPr>')
    body = (
        styled("1", "总") + styled("4", "一 1") + styled("2", "一") + styled("3", "（一）") + item("a", 0, 2) + deeper
    )
    assert extract_docx(docx(body, styles, NUMBERING)).text == "# 总\n\n## 一\n\n### （一）\n\n- a\n    - inner\n"


def test_paragraphs_that_go_on_with_an_item_and_letters_of_the_symbol_font() -> None:
    blank = (
        '<w:abstractNum w:abstractNumId="5"><w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/><w:lvlText w:val=" "/></w:lvl>'
    )
    numbering = NUMBERING.replace("<w:num ", blank + "</w:abstractNum><w:num ", 1)
    numbering += '<w:num w:numId="5"><w:abstractNumId w:val="5"/></w:num>'
    alpha = '<w:p><w:r><w:sym w:font="Symbol" w:char="F061"/></w:r></w:p>'
    body = item("one") + item("more of it", 0, 5) + item("two") + alpha + item("alone", 0, 5)
    heading = '<w:p><w:pPr><w:outlineLvl w:val="0"/><w:numPr><w:ilvl w:val="0"/><w:numId w:val="5"/></w:numPr></w:pPr>'
    heading += "<w:r><w:t>Plain</w:t></w:r></w:p>"
    assert extract_docx(docx(heading, "", numbering)).text == "# Plain\n"
    assert extract_docx(docx(body, "", numbering)).text == "1. one\n\n    more of it\n\n2. two\n\nα\n\nalone\n"


def test_footnotes_scripts_and_code() -> None:
    body = (
        (
            '<w:p><w:r><w:t>10</w:t></w:r><w:r><w:rPr><w:vertAlign w:val="superscript"/></w:rPr><w:t>-6</w:t></w:r>'
            '<w:r><w:footnoteReference w:id="2"/></w:r></w:p>'
        )
        + styled("C", "def f():")
        + styled("C", "    return 1")
    )
    notes = f'<w:footnote w:id="2">{P.format("a note")}</w:footnote>'
    found = extract_docx(docx(body, STYLES, footnotes=notes)).text
    assert found == "10⁻⁶[^1]\n\n```\ndef f():\n    return 1\n```\n\n[^1]: a note\n"


def test_a_file_of_another_program() -> None:
    made = python_docx.Document()
    made.add_heading("Report", 1)
    made.add_paragraph("first", style="List Bullet")
    made.add_paragraph("第一", style="List Number")
    grid = made.add_table(2, 2)
    for i in range(4):
        grid.cell(i // 2, i % 2).text = f"c{i}"
    made.core_properties.title = "The title"
    out = io.BytesIO()
    made.save(out)
    found = extract_docx(out.getvalue())
    assert "# Report\n\n- first\n1. 第一\n\n| c0 | c1 |" in found.text and found.meta["title"] == "The title"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"PK\x03\x04 not a zip", "broken docx"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "encrypted"),
        (docx(P.format("x"))[:-40], "broken docx"),
        (docx("<w:p/>"), "empty"),
        (docx("<w:p>")[:200] + b"", "broken docx"),
        (bomb("word/document.xml"), "compression ratio"),
        (docx("<w:sdt><w:sdtContent>" * 400 + P.format("x") + "</w:sdtContent></w:sdt>" * 400), "broken docx"),
    ],
)
def test_broken_files_are_told_why(raw: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        extract_docx(raw)
    assert caught.value.reason.startswith(reason)


def test_prefixes_without_a_namespace_cost_nothing() -> None:
    body = '<w:p><w:r><w:t>before</w:t></w:r><a14:x w99:y="1"><w:r><w:t> after</w:t></w:r></a14:x></w:p>'
    assert extract_docx(docx(body)).text == "before after\n"
    with pytest.raises(Unreadable, match="broken docx"):
        extract_docx(docx(body.replace("</a14:x>", "")))


def test_xml_entities_are_not_expanded() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        xml = '<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/hostname">]><d><body><p><r><t>a&e;b</t></r></p></body></d>'
        archive.writestr("word/document.xml", xml)
    assert extract_docx(out.getvalue()).text == "a\n"

"""Slides → Markdown: titles as headings, text in the order of its place, tables, charts, formulas, speaker notes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from athanor.data.extract.charts import chart_table
from athanor.data.extract.omml import child, local, omml_to_latex, val, whole
from athanor.data.extract.ooxml import Package
from athanor.data.extract.scripts import join_inline, raised
from athanor.data.extract.tables import Cell, render_table
from athanor.data.extract.types import Extracted, Unreadable

_TITLES = ("title", "ctrTitle")
#: Placeholders that repeat on every slide.
_FURNITURE = ("dt", "ftr", "sldNum", "hdr", "sldImg")
#: Shapes whose tops differ by less than this share of the slide's height stand beside each other.
_BAND = 0.04
_MAX_NESTING = 20


@dataclass(slots=True)
class _Shape:
    element: Any
    kind: str
    placeholder: str | None
    x: float
    y: float


def extract_pptx(raw: bytes) -> Extracted:
    """One presentation. ``Unreadable`` where it is broken, encrypted, a bomb or empty."""
    package = Package(raw, "pptx")
    reader = _Reader(package)
    slides = [text for text in map(reader.slide, reader.slides()) if text]
    if not slides:
        raise Unreadable("empty: no text on the slides")
    meta: dict[str, Any] = {
        "format": "pptx",
        "pages": reader.n_slides,
        "tables": reader.n_tables,
        "formulas": reader.n_formulas,
    }
    if title := package.title():
        meta["title"] = title
    return Extracted("\n\n".join(slides) + "\n", meta)


class _Reader:
    def __init__(self, package: Package) -> None:
        self.package = package
        self.part = package.main_part("ppt/presentation.xml")
        self.root = package.xml(self.part)
        if self.root is None:
            raise Unreadable("broken pptx: no presentation part")
        self.height = _length(val(child(self.root, "sldSz"), "cy")) or 6_858_000.0
        self.n_slides = self.n_tables = self.n_formulas = 0
        self._layouts: dict[str, dict[tuple[str, str], tuple[float, float]]] = {}

    def slides(self) -> Iterator[str]:
        """Parts of the slides that are shown, in the order of the presentation."""
        relations = self.package.relations(self.part)
        ids = child(self.root, "sldIdLst")
        for item in ids if ids is not None else ():
            number = next((v for k, v in item.attrib.items() if k.endswith("}id")), "")
            if number in relations:
                yield relations[number][1]

    def slide(self, part: str) -> str:
        """Markdown of one slide, "" for a hidden or empty one."""
        root = self.package.xml(part)
        if root is None or val(root, "show", "1") in ("0", "false"):
            return ""
        self.n_slides += 1
        relations = self.package.relations(part)
        layout = next((target for kind, target in relations.values() if kind == "slideLayout"), "")
        shapes = list(self._shapes(child(root, "cSld", "spTree"), self._positions(layout), (0.0, 0.0, 1.0, 1.0), 0))
        shapes.sort(key=lambda s: (s.placeholder not in _TITLES, round(s.y / (_BAND * self.height)), s.x))
        parts = [text for shape in shapes for text in self._shape(shape, relations)]
        notes = next((target for kind, target in relations.values() if kind == "notesSlide"), "")
        if notes and (text := self._notes(notes)):
            parts.append(f"Notes: {text}")
        return "\n\n".join(parts)

    def _positions(self, layout: str) -> dict[tuple[str, str], tuple[float, float]]:
        """(type, index) → place of the layout's placeholders, which a slide's own inherit."""
        if layout not in self._layouts:
            root = self.package.xml(layout) if layout else None
            found: dict[tuple[str, str], tuple[float, float]] = {}
            for shape in root.iter() if root is not None else ():
                if local(shape) == "sp" and (holder := _placeholder(shape)) is not None:
                    offset = child(shape, "spPr", "xfrm", "off")
                    if offset is not None:
                        place = _length(val(offset, "x")), _length(val(offset, "y"))
                        found[holder] = place
                        found.setdefault(("", holder[1]), place)
            self._layouts[layout] = found
        return self._layouts[layout]

    def _shapes(
        self, tree: Any, inherited: Any, frame: tuple[float, float, float, float], depth: int
    ) -> Iterator[_Shape]:
        """Shapes below a tree or group; ``frame`` is how the group's space lies on the slide (shift, scale)."""
        last = 0.0
        for element in tree if tree is not None else ():
            kind = local(element)
            if kind == "AlternateContent":
                yield from self._shapes(child(element, "Choice"), inherited, frame, depth + 1)
                continue
            if kind == "grpSp" and depth < _MAX_NESTING:
                yield from self._shapes(element, inherited, _frame(element, frame), depth + 1)
                continue
            if kind not in ("sp", "graphicFrame"):
                continue
            holder = _placeholder(element)
            if holder is not None and holder[0] in _FURNITURE:
                continue
            offset = child(element, "spPr", "xfrm", "off") if kind == "sp" else child(element, "xfrm", "off")
            if offset is not None:
                x, y = _length(val(offset, "x")), _length(val(offset, "y"))
            elif holder is not None:
                x, y = inherited.get(holder) or inherited.get(("", holder[1])) or (0.0, last)
            else:
                x, y = 0.0, last
            x, y = frame[0] + x * frame[2], frame[1] + y * frame[3]
            last = y
            yield _Shape(element, kind, holder[0] if holder else None, x, y)

    def _shape(self, shape: _Shape, relations: dict[str, tuple[str, str]]) -> Iterator[str]:
        if shape.kind == "sp":
            text = self._text(child(shape.element, "txBody"), shape.placeholder)
            if text and shape.placeholder in _TITLES:
                yield "# " + " ".join(text.split())
            elif text:
                yield text
            return
        data = child(shape.element, "graphic", "graphicData")
        for item in data if data is not None else ():
            if local(item) == "tbl":
                table = self._table(item)
                if table:
                    self.n_tables += 1
                    yield table
            elif local(item) == "chart":
                number = next((v for k, v in item.attrib.items() if k.endswith("}id")), "")
                root = self.package.xml(relations[number][1]) if number in relations else None
                if root is not None and (text := chart_table(root)):
                    self.n_tables += 1
                    yield text
            elif local(item) == "relIds":
                yield from self._diagram(relations, item)

    def _diagram(self, relations: dict[str, tuple[str, str]], item: Any) -> Iterator[str]:
        """The texts of a SmartArt drawing, as a list."""
        number = next((v for k, v in item.attrib.items() if k.endswith("}dm")), "")
        root = self.package.xml(relations[number][1]) if number in relations else None
        points = (element for element in root.iter() if local(element) == "pt") if root is not None else ()
        lines = [" ".join("".join(t.text or "" for t in p.iter() if local(t) == "t").split()) for p in points]
        if any(lines):
            yield "\n".join(f"- {line}" for line in lines if line)

    def _notes(self, part: str) -> str:
        root = self.package.xml(part)
        for shape in root.iter() if root is not None else ():
            if local(shape) == "sp" and (_placeholder(shape) or ("", ""))[0] == "body":
                return self._text(child(shape, "txBody"), None)
        return ""

    def _text(self, body: Any, placeholder: str | None) -> str:
        """Paragraphs of a text body; lists by their marks, nested by their level."""
        lines: list[tuple[str, str]] = []
        counts: dict[int, int] = {}
        for paragraph in body if body is not None else ():
            if local(paragraph) != "p":
                continue
            text = self._inline(paragraph).strip()
            if not text:
                continue
            properties = child(paragraph, "pPr")
            level = whole(val(properties, "lvl"), 0, 0, 8)
            numbered = child(properties, "buAutoNum")
            plain = child(properties, "buNone") is not None
            marked = child(properties, "buChar") is not None or placeholder in ("", "body", "obj")
            counts = {key: value for key, value in counts.items() if key <= level}
            if numbered is not None:
                counts[level] = counts.get(level, whole(val(numbered, "startAt"), 1, 0, 10**6) - 1) + 1
                lines.append(("item", f"{'    ' * level}{counts[level]}. {text}"))
            elif marked and not plain:
                lines.append(("item", f"{'    ' * level}- {text}"))
            else:
                lines.append(("text", text))
        out = ""
        for before, (kind, line) in zip([("", ""), *lines], lines, strict=False):
            out += ("" if not out else "\n" if kind == "item" == before[0] else "\n\n") + line
        return out

    def _inline(self, element: Any) -> str:
        pieces = []
        for item in element:
            name = local(item)
            if name == "r":
                found = child(item, "t")
                shift = whole(val(child(item, "rPr"), "baseline"), 0, -100_000, 100_000)
                align = "superscript" if shift > 0 else "subscript" if shift < 0 else None
                pieces.append(raised(found.text or "", align) if found is not None else "")
            elif name == "br":
                pieces.append("\n")
            elif name == "fld":
                found = child(item, "t")
                pieces.append(found.text or "" if found is not None else "")
            elif name in ("oMath", "oMathPara"):
                latex = omml_to_latex(item)
                self.n_formulas += bool(latex)
                mark = "$$" if name == "oMathPara" else "$"
                pieces.append(f"{mark}{latex}{mark}" if latex else "")
            elif name in ("AlternateContent", "Choice", "m"):
                pieces.append(self._inline(item))
        return join_inline(pieces)

    def _table(self, table: Any) -> str:
        rows = []
        for tr in table:
            if local(tr) != "tr":
                continue
            row = []
            for tc in tr:
                if local(tc) != "tc" or is_on_value(val(tc, "hMerge")) or is_on_value(val(tc, "vMerge")):
                    continue
                text = self._text(child(tc, "txBody"), None).replace("\n\n", "\n").replace("$$", "$")
                row.append(Cell(text, whole(val(tc, "gridSpan"), 1, 1), whole(val(tc, "rowSpan"), 1, 1)))
            rows.append(row)
        return render_table(rows) if any(cell.text for row in rows for cell in row) else ""


def _length(value: str | None) -> float:
    """A length in EMU (914,400 an inch), 0 where it is none."""
    return float(whole(value, 0, -(10**9), 10**9))


def is_on_value(value: str | None) -> bool:
    """Whether an on/off attribute is on."""
    return value in ("1", "true", "on")


def _placeholder(shape: Any) -> tuple[str, str] | None:
    """(type, index) of a placeholder shape; type "" is a body of any content."""
    for name in ("nvSpPr", "nvGraphicFramePr"):
        found = child(shape, name, "nvPr", "ph")
        if found is not None:
            return val(found, "type") or "", val(found, "idx") or "0"
    return None


def _frame(group: Any, outer: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Shift and scale from a group's own coordinates to the slide's."""
    xfrm = child(group, "grpSpPr", "xfrm")
    if xfrm is None:
        return outer
    read = {
        name: (_length(val(child(xfrm, name), a)), _length(val(child(xfrm, name), b)))
        for name, a, b in (("off", "x", "y"), ("ext", "cx", "cy"), ("chOff", "x", "y"), ("chExt", "cx", "cy"))
    }
    scale = [read["ext"][i] / read["chExt"][i] if read["chExt"][i] else 1.0 for i in (0, 1)]
    shift = [read["off"][i] - read["chOff"][i] * scale[i] for i in (0, 1)]
    return (
        outer[0] + shift[0] * outer[2],
        outer[1] + shift[1] * outer[3],
        outer[2] * scale[0],
        outer[3] * scale[1],
    )

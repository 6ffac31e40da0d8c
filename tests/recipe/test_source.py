"""YAML reading: types by the YAML 1.2 core rules, and the place of every value."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from athanor.errors import AthanorError
from athanor.recipe.source import parse_text, read_source, to_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1E3", 1000.0),
        ("7.4e12", 7.4e12),
        (".5", 0.5),
        ("-2.", -2.0),
        ("1_000_000", 1_000_000),
        ("0x10", 16),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("2024-01-01", "2024-01-01"),
        ("'512'", "512"),
        ("1e", "1e"),
        ("v1.0", "v1.0"),
        ("数学", "数学"),
    ],
)
def test_scalars_by_yaml_1_2(text, value):
    got = parse_text(text, "r").value
    assert got == value
    assert type(got) is type(value)


def test_every_value_knows_its_line():
    source = parse_text("a:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n", "r.yaml")
    assert source.place(("a", "b")) == "r.yaml:2"
    assert source.place(("a", "c", 0)) == "r.yaml:4"
    assert source.place(("a", "c", 1, "d")) == "r.yaml:5"
    assert source.place(("a", "missing")) == "r.yaml:1"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "twice (first at r:1)"),
        ("a: [1,\nb: }\n", 2, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
        ("x: .inf\n", 1, "not a finite number"),
        ("x: 1e999\n", 1, "not a finite number"),
        ("x: &l [*l]\n", 1, "contains itself"),
        ("? [1, 2]\n: 3\n", 1, "plain word"),
        ("a: 1\n---\nb: 2\n", 2, "single document"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "has no tags"),
        ("a: *nowhere\n", 1, "undefined alias"),
    ],
)
def test_bad_yaml_names_the_line(text, line, says):
    with pytest.raises(AthanorError) as caught:
        parse_text(text, "r")
    assert caught.value.where == f"r:{line}"
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"# only a comment\n", "empty"),
        (b"- a\n- b\n", "a list"),
        (b"just words", "a text"),
        (b"name: \xff\xfe", "not UTF-8"),
        (b"\x00\x01\x02\x7fELF", "not YAML text"),
        (b"PK\x03\x04name: zip", "not YAML text"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, content, says):
    file = tmp_path / "r.yaml"
    file.write_bytes(content)
    with pytest.raises(AthanorError, match=says) as caught:
        read_source(file)
    assert str(caught.value).startswith(str(file))


def test_byte_order_mark_is_not_a_key(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_bytes("\ufeffname: x\n".encode())
    assert read_source(file).value == {"name": "x"}


def test_missing_file_says_what_is_near(tmp_path):
    (tmp_path / "tiny.yaml").write_text("name: x\n")
    with pytest.raises(AthanorError, match="did you mean .*tiny.yaml"):
        read_source(tmp_path / "tinny.yaml")
    with pytest.raises(AthanorError, match="does not exist either"):
        read_source(tmp_path / "nowhere" / "tiny.yaml")


def test_a_run_folder_points_to_its_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    with pytest.raises(AthanorError, match=r"did you mean .*recipe\.yaml"):
        read_source(tmp_path)


# PyYAML itself loses the line ends of Unicode (U+0085, U+2028) in keys: names with control characters are not promised.
words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp")))
hard = st.sampled_from(
    ["0E0", "1e5", "no", "on", "~", "", "null", "0x1f", "010", "1:30", "2024-01-01", "- a", "a: b", "<<"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words | hard
trees = st.recursive(scalars, lambda t: st.lists(t, max_size=3) | st.dictionaries(words | hard, t, max_size=3))


@given(trees)
def test_written_values_are_read_back_by_both_yaml_versions(tree):
    text = to_yaml(tree)
    assert parse_text(text, "r").value == tree
    assert yaml.safe_load(text) == tree


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    """No other exception than AthanorError, whatever the file holds."""
    try:
        parse_text(text, "r")
    except AthanorError as error:
        assert error.where.startswith("r")

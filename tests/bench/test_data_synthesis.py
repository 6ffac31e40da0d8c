"""The benchmark of synthesised tasks runs, and its measures mean what they say."""

import json

from bench.data_synthesis import distinct_4, main, skeleton


def test_it_runs_and_its_bars_hold(tmp_path):
    out = tmp_path / "r.json"
    result = main(["--quick", "--out", str(out)])
    assert json.loads(out.read_text())["rows"][0]["tasks"] == 200
    assert all(bar["holds"] for bar in result["bars"])


def test_measures():
    assert skeleton("What is 12 + 3?") == skeleton("What is 7 + 45?") != skeleton("What is 7 - 45?")
    assert skeleton("Print?\n```python\ndef f(x):\n    return 1\n```") == skeleton(
        "Print?\n```python\ndef f(x):\n    return 2\n```"
    )
    assert distinct_4(["a b c d e"] * 2) == 0.5 and distinct_4(["一二三四五六"]) == 1.0

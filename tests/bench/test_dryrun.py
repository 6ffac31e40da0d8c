"""The table of the dry run: enough layouts, each a different one, and a row measured."""

from bench.dryrun import LAYOUTS, PEAK_TOLERANCE, measure, workload


def test_a_dozen_layouts_or_more():
    assert len({str(sorted(layout.plan.items(), key=str)) for layout in LAYOUTS}) == len(LAYOUTS) >= 12
    for layout in LAYOUTS:
        assert layout.rank < workload(layout).plan.world_size


def test_one_row():
    row = measure(next(layout for layout in LAYOUTS if "uneven" in layout.name))
    assert row["exact"] and abs(row["difference"]) <= PEAK_TOLERANCE
    assert row["activations"] < row["peak_bytes"]

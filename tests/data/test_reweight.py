"""The update rule against its formulas, worked by hand; where reference losses and recorded shares come from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from athanor.data.reweight import LEAST_SHARE, Reweighter, recorded, reference_losses
from athanor.errors import AthanorError
from athanor.recipe.mixing import ReweightRecipe

PRIOR = {"a": 2.0, "b": 1.0, "c": 1.0}
REFERENCE = {"a": 2.0, "b": 3.0, "c": 1.0}


def rule(**keys) -> ReweightRecipe:
    return ReweightRecipe(**{"reference": REFERENCE, "loss_memory": 0.0, **keys})


def test_excess_is_an_exponentiated_gradient_step() -> None:
    """DoReMi, algorithm 1, with numbers worked out here."""
    reweighter = Reweighter(rule(eta=0.5, smoothing=0.2, max_excess=1.5), PRIOR, REFERENCE)
    got = reweighter.update({"a": 2.5, "b": 2.0, "c": 9.0})
    assert reweighter.excess() == {"a": 0.5, "b": 0.0, "c": 1.5}  # b is below its reference, c is cut off
    raised = {"a": 0.5 * math.exp(0.25), "b": 0.25, "c": 0.25 * math.exp(0.75)}
    total = sum(raised.values())
    prior = {"a": 0.5, "b": 0.25, "c": 0.25}
    assert got == pytest.approx({n: 0.8 * raised[n] / total + 0.2 * prior[n] for n in PRIOR}, abs=1e-6)
    again = reweighter.update({"a": 2.5, "b": 2.0, "c": 9.0})  # from where it is, not from the prior
    raised = {"a": got["a"] * math.exp(0.25), "b": got["b"], "c": got["c"] * math.exp(0.75)}
    total = sum(raised.values())
    assert again == pytest.approx({n: 0.8 * raised[n] / total + 0.2 * prior[n] for n in PRIOR}, abs=1e-6)
    assert reweighter.mean_shares() == pytest.approx({n: (got[n] + again[n]) / 2 for n in PRIOR})


def test_bandit_follows_the_loss_itself() -> None:
    reweighter = Reweighter(ReweightRecipe(method="bandit", eta=1.0, smoothing=0.0, loss_memory=0.0), PRIOR)
    for _ in range(2):  # without memory of its own shares
        got = reweighter.update({"a": 1.0, "b": 2.0, "c": 1.0})
    raised = {"a": 0.5, "b": 0.25 * math.e, "c": 0.25}
    assert got == pytest.approx({n: x / sum(raised.values()) for n, x in raised.items()}, abs=1e-6)


def test_losses_are_remembered_and_missing_ones_kept() -> None:
    reweighter = Reweighter(rule(loss_memory=0.75), PRIOR, REFERENCE)
    reweighter.update({"a": 4.0, "b": 4.0})
    reweighter.update({"a": 2.0, "b": float("nan"), "other": 3.0})
    assert reweighter.losses == {"a": 3.5, "b": 4.0}
    assert reweighter.shares["c"] < reweighter.shares["b"]  # c was never read: no excess is known of it


def test_no_share_dies_and_rounding_hides_the_order_of_sums() -> None:
    reweighter = Reweighter(rule(eta=50.0, smoothing=0.0), PRIOR, REFERENCE)
    other = Reweighter(rule(eta=50.0, smoothing=0.0), PRIOR, REFERENCE)
    for _ in range(5):
        got = reweighter.update({"a": 9.00001, "b": 3.0, "c": 1.0})
        assert got == other.update({"a": 9.00001 + 1e-8, "b": 3.0 - 1e-9, "c": 1.0})
    assert min(got.values()) >= LEAST_SHARE * 0.9 and sum(got.values()) == pytest.approx(1, abs=1e-5)


def test_state_goes_through_json() -> None:
    one, two = (Reweighter(rule(loss_memory=0.5), PRIOR, REFERENCE) for _ in range(2))
    one.update({"a": 2.5, "b": 4.0, "c": 1.0})
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    losses = {"a": 2.2, "b": 3.9, "c": 1.4}
    assert one.update(losses) == two.update(losses) and one.mean_shares() == two.mean_shares()


def test_where_reference_losses_come_from(tmp_path: Path) -> None:
    assert reference_losses({"a": 1.0}) == {"a": 1.0} and reference_losses(None) == {}
    (tmp_path / "DONE").write_text(json.dumps({"held_out_loss": REFERENCE}))
    assert reference_losses(str(tmp_path)) == REFERENCE
    # training losses by source, where there are any: the mean of the last tenth
    (tmp_path / "run").mkdir()
    rows = [{"step": i, "loss/a": 30.0 - i, **({"loss/b": 2.0} if i % 2 else {})} for i in range(30)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"eval": {}}]))
    assert reference_losses(str(tmp_path / "run")) == {"a": 2.0, "b": 2.0}
    with pytest.raises(AthanorError, match="no finished run"):
        reference_losses(str(tmp_path / "nowhere"))
    (tmp_path / "DONE").write_text("{}")
    with pytest.raises(AthanorError, match="no losses by source"):
        reference_losses(str(tmp_path))
    with pytest.raises(AthanorError, match="no reference loss of c"):
        Reweighter(rule(), PRIOR, {"a": 1.0, "b": 2.0})


def test_the_last_record_of_a_row_counts(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    events = [
        {"kind": "start"},
        {"kind": "mixture", "stage": "s", "from_row": 80, "shares": {"a": 0.5}},
        {"kind": "mixture", "stage": "s", "from_row": 40, "shares": {"a": 0.1}},
        {"kind": "mixture", "stage": "other", "from_row": 40, "shares": {"a": 0.9}},
        {"kind": "mixture", "stage": "s", "from_row": 40, "shares": {"a": 0.2}},
    ]
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert recorded(file, "s") == [(40, {"a": 0.2}), (80, {"a": 0.5})]
    with pytest.raises(AthanorError, match="no such file"):
        recorded(tmp_path / "none", "s")

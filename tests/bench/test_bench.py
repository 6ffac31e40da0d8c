"""The benchmarks are fair and run: equal isolation for every contender, honest batches, bars that follow their rows."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from athanor.data.types import IGNORE
from athanor.model.params import count_params
from bench import hosted, train_cpu, train_gpu
from bench.bars import judge
from bench.common import Spread, gemm_rate
from bench.contenders import OURS, PEERS, Contender, build
from bench.train_cpu import CPU, FULL, TOY, Options
from bench.workloads import Work, document_mask, full_rows, mixed_lengths, packed_works, padded_works
from tests.parallel.ranks import PRELOAD

NAMES = (*OURS, *PEERS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Toy shapes gain nothing from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _build(name: str, dtype: torch.dtype = torch.float32) -> Contender:
    if name in ("transformers", "litgpt"):
        pytest.importorskip(name)
    return build(name, TOY, dtype, False, CPU)


def _loss(contender: Contender, work: Work) -> tuple[float, int]:
    """(summed loss, targets) from logits."""
    labels = work.batch.labels_BT.flatten()
    logits = contender.logits(work).float().flatten(0, 1)
    total = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return float(total), int((labels != IGNORE).sum())


def _alone(work: Work) -> list[Work]:
    """Every document of a packed step as a step of its own."""
    out = []
    for row, lens in enumerate(work.batch.doc_lens):
        at = 0
        for n in lens:
            ids, labels = (x[row : row + 1, at : at + n] for x in (work.batch.input_ids_BT, work.batch.labels_BT))
            batch = type(work.batch)(ids, labels, torch.arange(n)[None], [[n]])
            out.append(Work(batch, n))
            at += n
    return out


@pytest.mark.parametrize("name", NAMES)
def test_every_contender_isolates_documents_equally(name: str) -> None:
    work = packed_works(TOY, mixed_lengths(TOY, 20, 1), 1, CPU, masked=name in PEERS)[0]
    assert any(len(lens) > 1 for lens in work.batch.doc_lens)
    contender = _build(name)
    total, count = _loss(contender, work)
    pieces = [_loss(contender, piece) for piece in _alone(work) if bool((piece.batch.labels_BT != IGNORE).any())]
    assert count == sum(n for _, n in pieces)
    assert total == pytest.approx(sum(x for x, _ in pieces), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_padding_does_not_change_a_document(name: str) -> None:
    work = padded_works(TOY, mixed_lengths(TOY, 20, 2), 2, CPU)[0]
    contender = _build(name)
    total, _ = _loss(contender, work)
    pieces = [_loss(contender, piece)[0] for piece in _alone(work) if bool((piece.batch.labels_BT != IGNORE).any())]
    assert total == pytest.approx(sum(pieces), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_trains_and_reset_goes_back(name: str, dtype: torch.dtype) -> None:
    contender, work = _build(name, dtype), full_rows(TOY, 0, CPU)
    before = contender.logits(work)
    losses = [float(contender.step(work, 1e-2)) for _ in range(6)]
    assert losses[0] == pytest.approx(np.log(TOY.vocab), rel=0.15)  # fresh weights know nothing
    assert losses[-1] < losses[0] - 0.5
    contender.reset()
    assert torch.equal(contender.logits(work), before)


def test_the_shape_is_the_one_that_was_asked_for() -> None:
    matrices = sum(i * o * n for i, o, n in FULL.products)
    assert 29e6 < matrices < 31e6 and (FULL.width, FULL.layers, FULL.context) == (512, 8, 512)
    norms = (2 * FULL.layers + 1) * FULL.width
    assert count_params(FULL.config(dssn=False)) == matrices + FULL.vocab * FULL.width + norms
    causal, full = (FULL.flops_per_token(c) for c in ("causal", "full"))  # type: ignore[arg-type]
    attention = 12 * FULL.layers * FULL.width * FULL.context
    assert full == pytest.approx(6 * matrices + attention)
    assert causal == pytest.approx(6 * matrices + attention / 2, rel=1e-3)


def test_batches_hold_what_they_say() -> None:
    lens = mixed_lengths(TOY, 200, 0)
    assert lens.min() >= 8 and lens.max() <= TOY.context
    packed, padded = packed_works(TOY, lens, 0, CPU, masked=True), padded_works(TOY, lens, 0, CPU)
    for work in packed:
        real = sum(n for row in work.batch.doc_lens for n in row)
        assert real == TOY.tokens and work.mask is not None
        pairs = sum(n * (n + 1) // 2 for row in work.batch.doc_lens for n in row)
        assert int(work.mask.sum()) == pairs
    for work in padded:
        assert work.padding is not None and int(work.padding.sum()) == work.useful
    assert sum(w.useful for w in packed) / (len(packed) * TOY.tokens) > 0.95


def test_document_mask_is_causal_inside_documents() -> None:
    mask = document_mask([[2, 1]], 3)[0, 0]
    assert mask.tolist() == [[True, False, False], [True, True, False], [False, False, True]]


def test_spread_and_matrix_rate() -> None:
    spread = Spread.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert spread.median == 3 and spread.spread == pytest.approx(2 / 3)
    assert gemm_rate(TOY, torch.float32, CPU, rounds=1) > 1e6


def _row(contender: str, precision: str, rate: float, mode: str = "eager", mfu: float = 0.5) -> dict[str, object]:
    return {"contender": contender, "precision": precision, "mode": mode, "tokens_per_s": rate, "mfu_cpu": mfu}


def test_bars_compare_with_the_fastest_peer_of_that_precision() -> None:
    rows = [
        _row("athanor", "fp32", 100.0, mfu=0.95),
        _row("athanor-dssn", "fp32", 999.0),  # not equal work: never the one that is judged
        _row("textbook", "fp32", 80.0),
        _row("transformers", "fp32", 110.0, "compiled"),
        _row("athanor", "bf16", 180.0, "compiled", mfu=0.7),
        _row("litgpt", "bf16", 150.0),
    ]
    bars = {bar["bar"]: bar for bar in judge({"throughput": {"rows": rows}, "default_precision": "bf16"})}
    assert bars["fp32 tokens/s"]["value"] == pytest.approx(100 / 110) and not bars["fp32 tokens/s"]["met"]
    assert bars["bf16 tokens/s"]["value"] == pytest.approx(1.2) and bars["bf16 tokens/s"]["met"]
    assert bars["default tokens/s"]["value"] == pytest.approx(180 / 110)
    assert bars["fp32 MFU_cpu"]["met"] and not bars["bf16 MFU_cpu"]["met"]


def test_bars_of_loss_and_loader() -> None:
    row = {"precision": "bf16", "mode": "eager"}
    rows = [{**row, "contender": "athanor-dssn", "after": 4.0}, {**row, "contender": "textbook", "after": 4.1}]
    loader = {"share": 0.02, "packing_efficiency": 0.98}
    bars = judge({"loss": {"rows": rows}, "loader": loader, "default_precision": "bf16"})
    assert [bar["met"] for bar in bars] == [True, False, True]


def test_quick_worker_fills_every_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contenders are forked from a server that has imported everything: new interpreters would take half a minute."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    monkeypatch.setattr(hosted.multiprocessing, "get_context", lambda method: context)
    options = Options(
        1, quick=True, rounds=1, compile=False, contenders=("athanor", "textbook"), loss_s=0.05, documents=60
    )
    result = train_cpu.run_worker(options)
    json.dumps(result)
    train_cpu.print_worker(result)
    assert len(result["throughput"]["rows"]) == 4 and all(r["tokens_per_s"] > 0 for r in result["throughput"]["rows"])
    assert {r["batching"] for r in result["mixed"]["rows"]} == {"packed, isolated", "padding", "concatenated + mask"}
    assert all(r["steps"] >= 1 and r["after"] > 0 for r in result["loss"]["rows"])
    assert 0 < result["loader"]["packing_efficiency"] <= 1 and result["loader"]["share"] > 0
    assert result["bars"] == []


def test_gpu_script_runs_here_at_a_toy_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    assert train_gpu.main(["--toy", "--contenders", "athanor-dssn", "textbook", "--no-compile", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["shapes"]["toy"]["rows"]
    assert [row["contender"] for row in rows] == ["athanor-dssn", "textbook"]
    assert all(0 < row["mfu_attended"] <= row["mfu_full"] for row in rows)
    assert "toy on" in capsys.readouterr().out

"""Checkpoints between layouts and one process, bit for bit; damage, other models and failing ranks are named by all."""

import shutil

import pytest
import torch

from athanor import files
from athanor.errors import AthanorError
from athanor.parallel.checkpoint import load, save
from athanor.parallel.mesh import Ranks
from athanor.parallel.optimizer import ShardedAdamW
from athanor.parallel.plan import ParallelPlan
from athanor.recipe.schema import OptimizerRecipe
from athanor.train.checkpoint import damage, read_checkpoint, write_checkpoint
from athanor.train.optimizer import AdamW
from tests.parallel.ranks import run_ranks
from tests.parallel.training import LR, config, laid_out, model_of, spread, train, whole

F64 = torch.float64
PLANS = [
    ParallelPlan(dp_shard=4),
    ParallelPlan(tp=2, dp_shard=2),
    ParallelPlan(pp=2, tp=2),
    ParallelPlan(dp_replicate=2, dp_shard=2, zero=0),
]
KEYS = ("params", "exp_avg", "exp_avg_sq")


def updated(plan, seed):
    """An optimizer in the plan's layout that has done one update, so that nothing in its state is zero."""
    ranks = Ranks.of(plan, torch.device("cpu"))
    model = spread(ranks, config(), seed)
    optimizer = ShardedAdamW([model], ranks, OptimizerRecipe())
    for p, grad in zip(model.parameters(), spread(ranks, config(), seed + 1).parameters(), strict=True):
        p.grad = grad.data
    optimizer.step(LR, 1.0)
    return ranks, optimizer


def extras(ranks):
    """What a trainer keeps beside the optimizer: numbers, lists, tensors that some ranks have or all."""
    return {
        "trainer": {"step": 7, "stages": [["a", 3]], "none": None},
        "buffers": {f"layers.{ranks.at('pp')}.bias": torch.arange(3.0) + ranks.at("pp")},
        "rng": {"cpu": torch.arange(5, dtype=torch.uint8)},
    }


def wholes(state):
    return {key: whole(state[key]) for key in KEYS}


def travel(folder, from_one):
    """Save in every layout, load each in the next one, and load what one process wrote."""
    saved, loaded = [], []
    for i, plan in enumerate(PLANS):
        ranks, optimizer = updated(plan, seed=3)
        state = optimizer.snapshot()
        size = save(folder / f"step-{i}", i, {**state, **extras(ranks)}, ranks)
        saved.append((size, wholes(state)))
    for i, plan in enumerate(PLANS):
        ranks, optimizer = updated(plan, seed=11)
        for source in (folder / f"step-{(i + 3) % 4}", from_one):
            state = load(source, optimizer.snapshot(), ranks)
            optimizer.restore(state)
            rest = {key: value for key, value in state.items() if key not in (*KEYS, "optimizer")}
            loaded.append((wholes(optimizer.snapshot()), float(optimizer.steps_done), rest))
    return saved, loaded


def test_any_layout_loads_what_any_other_saved(tmp_path):
    reference = AdamW(model_of(config(), F64, 3), OptimizerRecipe())
    for group in reference.groups:
        for name, p in group.params.items():
            p.grad = dict(model_of(config(), F64, 4).named_parameters())[name].data
    reference.accumulate()
    reference.step(LR, 1.0)
    exact = reference.snapshot()
    write_checkpoint(tmp_path / "one", 5, exact)
    results = run_ranks(4, travel, tmp_path, tmp_path / "one")

    folders = [tmp_path / f"step-{i}" for i in range(4)]
    for i, folder in enumerate(folders):
        assert damage(folder) is None and files.read_json(folder / "manifest.json")["step"] == i
        state = read_checkpoint(folder)  # one process reads what four ranks wrote
        assert state["trainer"] == {"step": 7, "stages": [["a", 3]], "none": None}
        assert len(state["buffers"]) == PLANS[i].pp and float(state["optimizer"]["steps_done"]) == 1.0
        for key in KEYS:
            assert state[key].keys() == exact[key].keys()
            for name, tensor in state[key].items():
                torch.testing.assert_close(tensor, exact[key][name], rtol=1e-9, atol=1e-12, msg=f"{i} {key} {name}")
        other = AdamW(model_of(config(), F64, 8), OptimizerRecipe())
        other.restore(load(folder, other.snapshot()))
        assert all(torch.equal(p, state["params"][name]) for name, p in other.masters.items())
        for rank in results:
            assert rank[0][i][0] == sum(
                path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json"
            )
            same(rank[0][i][1], state)
    for rank in results:
        for i in range(4):
            there = read_checkpoint(folders[(i + 3) % 4])
            tensors, steps, rest = rank[1][2 * i]
            same(tensors, there)
            assert steps == 1.0 and rest["trainer"] == there["trainer"]
            assert torch.equal(rest["rng"]["cpu"], torch.arange(5, dtype=torch.uint8))
            assert rest["buffers"].keys() == there["buffers"].keys()
            same(rank[1][2 * i + 1][0], exact)


def same(part, state):
    """All that a rank has equals the whole state's, bit for bit; a pipeline rank has some of it."""
    for key in KEYS:
        assert part[key] and part[key].keys() <= state[key].keys()
        for name, tensor in part[key].items():
            assert torch.equal(tensor, state[key][name]), (key, name)


def resume(folder):
    """Five steps at once, and three, saved, loaded into a fresh model, two more."""
    plan = ParallelPlan(dp_shard=2, zero=1)
    ranks, model = laid_out(plan, config(), torch.float32, torch.bfloat16)
    optimizer = ShardedAdamW([model], ranks, OptimizerRecipe())
    train(ranks, model, optimizer, plan, steps=range(3))
    save(folder, 3, optimizer.snapshot(), ranks)
    whole_run = train(ranks, model, optimizer, plan, steps=range(3, 5)), whole(optimizer.masters)
    ranks, model = laid_out(plan, config(), torch.float32, torch.bfloat16, seed=1)
    optimizer = ShardedAdamW([model], ranks, OptimizerRecipe())
    with torch.no_grad():  # leaves parameters gathered, which must not outlive the restore
        model(torch.zeros(1, 4, dtype=torch.int64))
    optimizer.restore(load(folder, optimizer.snapshot(), ranks))
    return whole_run, (train(ranks, model, optimizer, plan, steps=range(3, 5)), whole(optimizer.masters))


def test_a_resumed_run_repeats_the_bits_of_the_unbroken_one(tmp_path):
    for unbroken, resumed in run_ranks(2, resume, tmp_path / "step-3"):
        assert unbroken[0] == resumed[0]
        assert all(torch.equal(p, resumed[1][name]) for name, p in unbroken[1].items())


def refused(folders, bad_save):
    """Messages of loading each folder, and of a save in which one rank has what cannot be saved."""
    ranks, optimizer = updated(ParallelPlan(dp_shard=2), seed=3)
    messages = []
    for folder in folders:
        try:
            load(folder, optimizer.snapshot(), ranks)
            messages.append(None)
        except AthanorError as error:
            messages.append(str(error))
    bad = {"trainer": {"step": object() if ranks.rank == 1 else 1}}
    try:
        save(bad_save, 1, {**optimizer.snapshot(), **bad}, ranks)
    except AthanorError as error:
        messages.append(str(error))
    return messages


def first_save(folder):
    ranks, optimizer = updated(ParallelPlan(dp_shard=2), seed=3)
    return save(folder, 1, optimizer.snapshot(), ranks)


def test_damage_and_other_models_are_refused_by_every_rank(tmp_path):
    run_ranks(2, first_save, tmp_path / "good")
    shards = sorted(path.name for path in (tmp_path / "good").glob("*.distcp"))
    assert len(shards) == 2  # both ranks have written
    for name in ("flipped", "missing", "cut"):
        shutil.copytree(tmp_path / "good", tmp_path / name)
    flipped, missing, cut = tmp_path / "flipped" / shards[1], tmp_path / "missing" / shards[0], tmp_path / "cut"
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    missing.unlink()
    (cut / "manifest.json").write_text("{")
    other = AdamW(model_of(config(tied=True), F64), OptimizerRecipe())
    wide = AdamW(model_of(config().model_copy(update={"vocab_size": 70}), F64), OptimizerRecipe())
    write_checkpoint(tmp_path / "other", 1, other.snapshot())
    write_checkpoint(tmp_path / "wide", 1, wide.snapshot())
    names = ("flipped", "missing", "cut", "other", "wide", "good", "nowhere")
    results = run_ranks(2, refused, [tmp_path / name for name in names], tmp_path / "bad")
    assert results[0] == results[1]
    found = dict(zip((*names, "save"), results[0], strict=True))
    assert f"{flipped}: checksum differs" in found["flipped"] and f"{missing}: missing" in found["missing"]
    assert "not readable as JSON" in found["cut"] and "file not found" in found["nowhere"]
    assert "exp_avg.lm_head.weight (67, 32) is not in the checkpoint" in found["other"]
    assert "embed_tokens.weight has shape (70, 32), the model's is (67, 32)" in found["wide"]
    assert found["good"] is None
    assert "rank 1: TypeError" in found["save"] and "trainer.step" in found["save"]
    assert not list(tmp_path.glob("bad*"))
    with pytest.raises(AthanorError, match="checksum differs"):
        load(tmp_path / "flipped", AdamW(model_of(config(), F64), OptimizerRecipe()).snapshot())

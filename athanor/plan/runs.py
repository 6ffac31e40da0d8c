"""Published training runs from a CSV, and what the planner must assume to predict each of them.

Nothing here is fitted and nothing depends on a row's published value: a row's columns and notes choose the model, the
layout, the machine's file and the engine's traits. What it leaves open (micro-batch, recomputation) the planner picks
as it would for a user: the fastest that fits.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.parallel.plan import ParallelPlan, RecomputePlan, ScheduleName
from athanor.plan.layouts import Switches
from athanor.plan.traits import ENGINES, Engine

COLUMNS = (
    "source", "table/figure", "model", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "seq", "global_batch",
    "gpus", "gpu_type", "tp", "pp", "vp", "dp", "cp", "micro_batch", "recompute", "measured_quantity", "value", "unit",
    "provenance", "note",
)  # fmt: skip
_COUNTS = COLUMNS[3:12] + COLUMNS[13:19]
#: Cluster file by what the accelerator's name begins with; the longest that fits.
DEVICES = {
    "A100": "a100-3072",
    "H100": "h100-1024",
    "H100-96GB": "h100-hbm2e-512",
    "H200": "h200-1",
    "B200": "b200-8",
    "Ascend": "ascend-910b-8192",
}


@dataclass(frozen=True, slots=True)
class Run:
    """One row. Counts are None where the row does not say."""

    line: int
    source: str
    table: str
    model: str
    counts: dict[str, int | None]
    device: str
    recompute: str
    quantity: str
    value: float
    unit: str
    note: str

    @property
    def words(self) -> str:
        """What the row says about the software, in small letters."""
        return f"{self.source} {self.table} {self.note}".lower()

    @property
    def key(self) -> tuple[object, ...]:
        """The run that the row belongs to: rows of one run differ in quantity alone."""
        return (self.source, self.table, self.model, tuple(self.counts.items()), self.device, self.recompute)

    @property
    def analytic(self) -> bool:
        """Whether the row says that its value was calculated."""
        return "analytic" in self.words or (self.quantity == "pp_bubble_fraction" and "formula" in self.words)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a row says, as the planner takes it. ``choices``: layouts that its open columns allow."""

    config: ModelConfig
    seq_len: int
    global_rows: int
    cluster: str
    engine: Engine
    choices: tuple[tuple[ParallelPlan, int, Switches, tuple[str, ...]], ...]  #: plan, rows, switches, selected parts
    assumed: tuple[str, ...]


def read_runs(path: Path) -> list[Run]:
    """All rows of ``path``; AthanorError with file and line for a missing, unknown or unreadable column."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise AthanorError("no such CSV file", where=str(path)) from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise AthanorError("not a CSV file in UTF-8", where=str(path)) from error
    reader = csv.DictReader(text.splitlines())
    found = list(reader.fieldnames or ())
    for name in found:
        if name not in COLUMNS:
            close = difflib.get_close_matches(name, COLUMNS, n=1)
            fix = f"did you mean {close[0]!r}?" if close else f"columns: {', '.join(COLUMNS)}"
            raise AthanorError(f"unknown column {name!r}", where=f"{path}:1", fix=fix)
    if missing := [name for name in COLUMNS if name not in found]:
        raise AthanorError(f"columns are missing: {', '.join(missing)}", where=f"{path}:1")
    return [_run(row, f"{path}:{reader_line}") for reader_line, row in enumerate(reader, 2)]


def _run(row: dict[str, str], where: str) -> Run:
    if None in row or None in row.values():
        raise AthanorError(f"the line does not have {len(COLUMNS)} fields", where=where)
    counts: dict[str, int | None] = {}
    for name in _COUNTS:
        text = row[name].strip()
        if text and not (text.isdecimal() and int(text) > 0):
            raise AthanorError(f"{name} is {text!r}", where=where, fix="a whole number, or nothing where it is unknown")
        counts[name] = int(text) if text else None
    try:
        value = float(row["value"])
    except ValueError as error:
        raise AthanorError(f"value is {row['value']!r}", where=where, fix="a number") from error
    return Run(
        line=int(where.rpartition(":")[2]),
        source=row["source"].strip(),
        table=row["table/figure"].strip(),
        model=row["model"].strip(),
        counts=counts,
        device=row["gpu_type"].strip(),
        recompute=row["recompute"].strip().lower(),
        quantity=row["measured_quantity"].strip(),
        value=value,
        unit=row["unit"].strip(),
        note=f"{row['note']} {row['provenance']}",
    )


# --- what a row means ------------------------------------------------------------------------------------------------


def setup(run: Run) -> Setup | str:
    """How the planner takes the row, or why it cannot."""
    if run.analytic:
        return "ANALYTIC: not a measurement"
    counts = run.counts
    cluster = max((name for name in DEVICES if run.device.startswith(name)), key=len, default=None)
    if cluster is None:
        return f"no cluster file for {run.device!r}"
    absent = [n for n in ("layers", "hidden", "heads", "vocab", "seq", "gpus") if counts[n] is None]
    if absent:
        return f"not stated: {', '.join(absent)}"
    if counts["global_batch"] is None and not run.quantity.startswith("layer_"):
        return "not stated: global_batch"
    assumed: list[str] = []
    config = _config(run, assumed)
    engine = _engine(run)
    if counts["tp"] is None or counts["pp"] is None:
        assumed.append("layout picked")
    choices, reason = [], "no layout divides the model and its batch"
    for tp, pp in _grids(run):
        ranks = _data_ranks(run, tp, pp, assumed)
        if isinstance(ranks, str):
            reason = ranks
        else:
            choices += _choices(run, engine, (tp, pp, *ranks), assumed)
    if not choices:
        return reason
    rows = counts["global_batch"] or choices[0][0].dp
    told = tuple(dict.fromkeys(assumed))
    return Setup(config, _count(run, "seq"), rows, DEVICES[cluster], engine, tuple(choices), told)


def _grids(run: Run) -> list[tuple[int, int]]:
    """(tp, pp) that the row says, or all that divide heads, layers and devices."""
    tps = [run.counts["tp"]] if run.counts["tp"] else [t for t in (1, 2, 4, 8) if _count(run, "heads") % t == 0]
    pps = [run.counts["pp"]] if run.counts["pp"] else [p for p in range(1, 17) if _count(run, "layers") % p == 0]
    both = itertools.product(tps, pps)
    stated = bool(run.counts["tp"] and run.counts["pp"])
    return [(t, p) for t, p in both if t and p and (stated or _count(run, "gpus") % (t * p) == 0)]


def _data_ranks(run: Run, tp: int, pp: int, assumed: list[str]) -> tuple[int, int, int] | str:
    """(dp, cp, rows of a data rank), or what does not divide."""
    counts, gpus = run.counts, _count(run, "gpus")
    dp, cp = counts["dp"] or max(gpus // (tp * pp * (counts["cp"] or 1)), 1), counts["cp"] or 1
    if tp * pp * dp * cp != gpus and gpus % (tp * pp * dp) == 0 and cp == 1 and counts["tp"] and counts["pp"]:
        cp = gpus // (tp * pp * dp)
        assumed.append(f"cp {cp}")
    if tp * pp * dp * cp != gpus:
        return f"tp·pp·dp·cp = {tp * pp * dp * cp}, not {gpus}"
    rows = counts["global_batch"] or dp
    return f"{rows} rows do not divide over dp {dp}" if rows % dp else (dp, cp, rows // dp)


def _count(run: Run, name: str) -> int:
    value = run.counts[name]
    assert value is not None
    return value


def _config(run: Run, assumed: list[str]) -> ModelConfig:
    """A GPT (LayerNorm, GELU, F = 4·h) where heads are not grouped and F is 4·h; else Llama's kind of block."""
    counts, hidden = run.counts, _count(run, "hidden")
    ffn, kv = counts["ffn"] or 4 * hidden, counts["kv_heads"] or _count(run, "heads")
    if counts["ffn"] is None or counts["kv_heads"] is None:
        assumed.append(f"ffn {ffn}, kv_heads {kv}")
    common = {
        "vocab_size": _count(run, "vocab"),
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": _count(run, "layers"),
        "num_attention_heads": _count(run, "heads"),
        "num_key_value_heads": kv,
        "max_position_embeddings": _count(run, "seq"),
    }
    if kv == common["num_attention_heads"] and ffn == 4 * hidden:
        return ModelConfig(
            **common,
            norm_type="layernorm",
            hidden_act="gelu",
            mlp_gated=False,
            position_embedding="learned",
            tie_word_embeddings=True,
            attention_bias=True,
            attention_output_bias=True,
            mlp_bias=True,
        )
    placement = "depth_scaled_sandwich" if "pangu" in run.model.lower() else "pre"
    return ModelConfig(**common, norm_placement=placement)


def _engine(run: Run) -> Engine:
    """Software by source: papers of 2021 and 2022 and torchtitan are known; anything else is a present Megatron-LM."""
    words = run.words
    if "narayanan" in words or "2104.04473" in words:
        name = "zero3-2021" if "zero-3" in words else "megatron-2021"
    elif "korthikanti" in words or "2205.05198" in words:
        name = "megatron-2022"
    elif "torchtitan" in words:
        name = "torchtitan"
    else:
        name = "megatron-core"
    engine = ENGINES[name]
    if "rowwise" in words:  # its products with a scale a row ran at bfloat16's rate, by the same table
        return engine
    if "_cef" in words:  # cross-entropy fused, by the names of its configurations
        engine = engine.model_copy(update={"logit_bytes": engine.fused_logit_bytes})
    return engine.model_copy(update={"dtype": "fp8"}) if "float8" in words or "fp8" in words else engine


def _choices(
    run: Run, engine: Engine, sizes_of: tuple[int, int, int, int, int], assumed: list[str]
) -> list[tuple[ParallelPlan, int, Switches, tuple[str, ...]]]:
    words, counts = run.words, run.counts
    (tp, pp, dp, cp, local_rows), vp = sizes_of, counts["vp"] or 1
    virtual = [vp]
    if pp > 1 and counts["vp"] is None:
        if engine.name == "megatron-core":  # a tuned run of today: the planner tunes, too
            most = -(-_count(run, "layers") // pp)
            virtual = [v for v in range(1, most + 1) if v <= 8 or most % v == 0]
            virtual = [v for v in virtual if pp * v <= _count(run, "layers")]
            assumed.append("vp picked")
        else:
            virtual = [2 if "interleaved" in words else 1]
            assumed.append(f"vp {virtual[0]}")
    zero = 1 if 1 in engine.states else max(engine.states)
    if engine.name == "torchtitan" and pp > 1:
        zero = 2
    sp = "+sp" in run.recompute or engine.name in ("megatron-core", "torchtitan")
    overlap = "asynctp" in words and "vanilla" not in words or "comm overlap on" in words or "pangu" in words
    eager = engine.name == "torchtitan" and "compile" not in words and "asynctp" not in words
    switches = Switches(chunked_tp=overlap, fused_ops=not eager, dp_overlap=engine.name not in _SERIAL)
    stated = counts["micro_batch"]
    sizes = [stated] if stated else [n for n in (1, 2, 4, 8) if local_rows % n == 0]
    if not stated and engine.name == "torchtitan" and pp > 1 and local_rows % pp == 0:
        sizes = [local_rows // pp]  # its default: as many micro-batches as pipeline ranks
    kinds = [run.recompute.removesuffix("+sp")] if run.recompute else ["none", "selective", "full"]
    if not stated or not run.recompute:
        assumed.append("micro-batch and recomputation picked" if not stated else "recomputation picked")
    out = []
    for size, kind, vp in itertools.product(sizes, kinds, virtual):
        if local_rows % size and not run.quantity.startswith("layer_"):
            continue
        if vp > 1 and local_rows // size % pp:
            continue
        schedule: ScheduleName = "interleaved_1f1b" if vp > 1 else "1f1b"
        plan = ParallelPlan(
                dp_shard=dp, zero=zero, tp=tp, sp=sp, cp=cp, cp_kv="ring", pp=pp, vpp=vp, schedule=schedule,
                chunks=tp if overlap else 1,
                recompute=RecomputePlan(mode="full" if kind == "full" else "none"),
            )  # fmt: skip
        out.append((plan, size, switches, _parts(kind, engine)))
    return out


#: Engines whose data-parallel collectives run after the last backward pass.
_SERIAL = ("zero3-2021", "megatron-2021", "megatron-2022")


def _parts(kind: str, engine: Engine) -> tuple[str, ...]:
    """What ``selective`` makes again: Megatron-LM attention without its projections; torchtitan every second product
    and all elementwise work (its ``op`` mode), of which norms, the up product and activations stand for."""
    if kind != "selective":
        return ()
    return ("norms", "up_proj") if engine.name == "torchtitan" else ("core",)


def with_parts(setups: Sequence[tuple[str, ...]], names: Sequence[str]) -> list[list[bool]]:
    """Selections as the rows of ``Layouts.names``."""
    return [[name in parts for name in names] for parts in setups]


def same_run(rows: Sequence[Run]) -> dict[tuple[object, ...], list[Run]]:
    """Rows by run, in the order of the file."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in rows:
        groups.setdefault(run.key, []).append(run)
    return groups


def replaced(run: Run, **changes: object) -> Run:
    """The row with other fields."""
    return dataclasses.replace(run, **changes)  # type: ignore[arg-type]

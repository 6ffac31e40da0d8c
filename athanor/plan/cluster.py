"""A cluster as the planner sees it: devices, nodes, network, cost. Values from YAML; every figure is an input.

``load_cluster("h100-1024")`` opens a shipped file (``athanor/plan/clusters/``), ``load_cluster("my.yaml")`` one's own.
``base: NAME`` lays a file on another, so that clusters of the same device say its figures once.
"""

from __future__ import annotations

import difflib
import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from athanor.errors import AthanorError
from athanor.plan.quantities import (
    Bytes,
    BytesOrZero,
    BytesPerSecond,
    Flops,
    FlopsPerSecond,
    Seconds,
    Share,
    Watts,
)
from athanor.recipe.source import KeyPath, Source, describe, parse_text

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8"]
FabricKind = Literal["full_mesh", "switch", "ring", "pcie"]


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MatmulPoint(_Value):
    """A product [m, k] @ [k, n] whose rate was measured, as a share of the dtype's peak."""

    m: int = Field(gt=0)
    n: int = Field(gt=0)
    k: int = Field(gt=0)
    dtype: Dtype = "bf16"
    efficiency: Share


class SizePoint(_Value):
    """Efficiency of products of about this many operations (2·m·n·k)."""

    flops: Flops
    efficiency: Share


class Matmul(_Value):
    """Rate of matrix products as a share of the peak: exact shapes first, else by size and shape.

    A shape without a point gets ``by_size`` (linear in the logarithm of the operations, level beyond both ends), times
    k/(k + half_k) for the prologue and epilogue of each tile, times the share of the last wave of tiles that is busy
    (``tile`` · ``units``; 0: not counted).
    """

    by_size: tuple[SizePoint, ...] = Field(min_length=1)
    points: tuple[MatmulPoint, ...] = ()
    half_k: float = Field(default=0.0, ge=0, description="k at which a tile's main loop takes half of its time")
    tile_m: int = Field(default=128, gt=0)
    tile_n: int = Field(default=128, gt=0)
    units: int = Field(default=0, ge=0, description="tiles at a time (multiprocessors or cube cores); 0: not counted")
    dtype_factor: dict[Dtype, Share] = Field(
        default_factory=dict, description="further factor for dtypes that come less near to their own peak"
    )

    @model_validator(mode="after")
    def _rising(self) -> Matmul:
        sizes = [point.flops for point in self.by_size]
        if sizes != sorted(set(sizes)):
            raise ValueError("by_size must go from small to large, each size once")
        return self


class Attention(_Value):
    """Fused attention, forward and backward, as shares of the peak at long rows; ``half_length``: keys a query at
    which a kernel reaches half of that."""

    forward: Share
    backward: Share
    half_length: float = Field(default=0.0, ge=0)


class MemoryBound(_Value):
    """Shares of the memory bandwidth that elementwise work reaches."""

    elementwise: Share
    norm: Share
    softmax: Share
    optimizer: Share
    unfused_passes: float = Field(
        default=2.0, ge=1, description="times the bytes of a fused operator, where operators are not fused"
    )


class Device(_Value):
    """One accelerator."""

    name: str
    peak_flops_per_s: dict[Dtype, FlopsPerSecond] = Field(min_length=1, description="dense, by dtype")
    memory_bytes: Bytes
    memory_bytes_per_s: BytesPerSecond
    reserved_bytes: BytesOrZero = Field(description="held by driver, runtime and communication library")
    fragmentation: float = Field(default=0.0, ge=0, lt=1, description="of activations: lost between blocks")
    launch_s: Seconds = Field(description="host time of a kernel that is not hidden, each")
    matmul: Matmul
    attention: Attention
    memory_bound: MemoryBound


CollectiveKind = Literal[
    "all_gather", "reduce_scatter", "all_reduce", "all_to_all", "send",
    "tensor_all_gather", "tensor_reduce_scatter", "tensor_all_reduce", "data_all_gather", "data_reduce_scatter",
]  # fmt: skip


class CollectivePoint(_Value):
    """A collective that was measured among ``ranks`` of one node. ``tensor_…`` and ``data_…`` are those of tensor and
    of data parallel as the training engine runs them, with what it copies around them."""

    kind: CollectiveKind
    ranks: int = Field(gt=1)
    nbytes: Bytes = Field(description="of the whole tensor")
    seconds: Annotated[float, Field(gt=0)]


class Node(_Value):
    """Devices that share a fast fabric. Bandwidths are of one device, one direction."""

    devices: int = Field(gt=0)
    fabric: FabricKind
    bytes_per_s: BytesPerSecond
    latency_s: Seconds
    efficiency: Share = Field(description="share of the bandwidth that large collectives reach")
    contention: float = Field(default=0.0, ge=0, lt=1, description="how much slower compute is beside a collective")
    host_memory_bytes: BytesOrZero = 0.0
    host_bytes_per_s: BytesPerSecond = Field(default=25e9, description="device to host memory, each device")
    points: tuple[CollectivePoint, ...] = Field(default=(), description="measured; they go before the formulas")


class Network(_Value):
    """What joins nodes."""

    nics: int = Field(gt=0, description="a node")
    bytes_per_s: BytesPerSecond = Field(description="of one NIC, one direction")
    latency_s: Seconds
    efficiency: Share
    oversubscription: float = Field(default=1.0, ge=1, description="bandwidth below the leaf switches / above them")
    leaf_nodes: int = Field(default=1, gt=0, description="nodes below a leaf switch, which share no upper link")


class Cost(_Value):
    """Of a device and hour; power at full load with its share of host and network."""

    device_hour: float = Field(ge=0)
    currency: str = "USD"
    device_w: Watts
    overhead: float = Field(default=1.0, ge=1, description="power usage effectiveness of the building")


class Reliability(_Value):
    """What goodput needs."""

    device_mtbf_s: Seconds = Field(description="mean time between failures of one device and its share of the node")
    restart_s: Seconds = 600.0
    storage_bytes_per_s: BytesPerSecond = Field(default=2e9, description="checkpoint writing, each node")


class Cluster(_Value):
    """A machine: ``devices`` accelerators in nodes of ``node.devices``."""

    name: str
    devices: int = Field(gt=0)
    device: Device
    node: Node
    network: Network | None = Field(default=None, description="needed where there is more than one node")
    cost: Cost | None = None
    reliability: Reliability | None = None
    notes: str = ""

    @property
    def nodes(self) -> int:
        """Nodes, the last one perhaps not full."""
        return -(-self.devices // self.node.devices)

    @model_validator(mode="after")
    def _joined(self) -> Cluster:
        if self.nodes > 1 and self.network is None:
            raise ValueError(f"{self.devices} devices are {self.nodes} nodes, but there is no network section")
        return self

    def resized(self, devices: int) -> Cluster:
        """The same machine with another number of devices; AthanorError where its parts do not allow it."""
        if devices < 1:
            raise AthanorError(f"{devices} devices", where=self.name, fix="1 or more")
        if devices > self.node.devices and self.network is None:
            raise AthanorError(
                f"{devices} devices are more than a node of {self.name} has ({self.node.devices})",
                where=self.name,
                fix="a cluster file with a network section",
            )
        return self.model_copy(update={"devices": devices})


# --- files -----------------------------------------------------------------------------------------------------------


def shipped_clusters() -> tuple[str, ...]:
    """Names that ``load_cluster`` knows without a file."""
    return tuple(
        sorted(path.name.removesuffix(".yaml") for path in _shipped().iterdir() if path.name.endswith(".yaml"))
    )


def load_cluster(name_or_path: str | Path) -> Cluster:
    """A shipped cluster by name, or a YAML file. AthanorError with file, line and key for anything wrong."""
    source = _read(str(name_or_path), ())
    try:
        # Strict JSON mode: "8" does not pass for 8. Quantities read their own texts.
        return Cluster.model_validate_json(json.dumps(_integral(source.value)), strict=True)
    except ValidationError as error:
        problems = [_problem(item, source) for item in error.errors()]
        if len(problems) == 1:
            raise problems[0] from error
        listed = "\n".join(str(problem) for problem in problems)
        raise AthanorError(f"{len(problems)} problems in the cluster file:\n{listed}") from error


def _shipped() -> Any:
    return resources.files("athanor.plan") / "clusters"


def _read(name: str, below: tuple[str, ...]) -> Source:
    """The file with what it is laid on."""
    if name in below:
        raise AthanorError(f"base: {' → '.join((*below, name))} goes in a circle", where=name)
    path = Path(name)
    if name in shipped_clusters():
        text, where = (_shipped() / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml"
    elif path.is_file():
        try:
            text, where = path.read_bytes().decode("utf-8"), name
        except UnicodeDecodeError as error:
            raise AthanorError("not UTF-8 text", where=name, fix="save the cluster file as UTF-8") from error
    else:
        raise _no_such(name)
    source = parse_text(text.removeprefix("\ufeff"), where)
    if not isinstance(source.value, dict):
        raise AthanorError(f"a cluster is a mapping of sections, not {describe(source.value)}", where=where)
    base = source.value.pop("base", None)
    if base is None:
        return source
    if not isinstance(base, str):
        raise AthanorError(f"base is {describe(base)}", where=source.place(("base",)), fix="a name or a path")
    beside = path.parent / base
    under = _read(str(beside) if beside.is_file() else base, (*below, name))
    return _laid(source, under)


def _laid(over: Source, under: Source) -> Source:
    """``over`` on ``under``: mappings are joined, anything else is replaced."""

    def join(path: KeyPath, low: Any, high: Any) -> Any:
        if not (isinstance(low, dict) and isinstance(high, dict)):
            places.update({p: at for p, at in over.places.items() if p[: len(path)] == path})
            return high
        return {
            key: join((*path, key), low[key], high[key])
            if key in low and key in high
            else (high if key in high else low)[key]
            for key in [*low, *(k for k in high if k not in low)]
        }

    places = {**over.places, **under.places}
    return Source(join((), under.value, over.value), places)


def _no_such(name: str) -> AthanorError:
    known = shipped_clusters()
    close = difflib.get_close_matches(Path(name).stem, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return AthanorError("no such cluster file", where=name, fix=f"{hint}a YAML file, or one of: {', '.join(known)}")


def _integral(value: Any) -> Any:
    """1e3 is a whole number to a person, and to a strict reader only without its point."""
    if isinstance(value, dict):
        return {key: _integral(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integral(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _problem(item: Any, source: Source) -> AthanorError:
    """One problem that pydantic found, with its key and line."""
    path = tuple(part for part in item["loc"] if part != "[key]")
    key, where = ".".join(map(str, path)), source.place(path)
    if item["type"] == "missing":
        section = ".".join(map(str, path[:-1])) or "the cluster"
        return AthanorError(f"{section} needs {path[-1]!r}", where=source.place(path[:-1]), fix=f"add `{path[-1]}:`")
    if item["type"] == "extra_forbidden":
        known = _keys(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        fix = f"did you mean {close[0]!r}?" if close else f"keys there: {', '.join(known)}"
        return AthanorError(f"unknown key {key!r}", where=where, fix=fix)
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if item["type"] == "value_error":
        return AthanorError(f"{key}: {message}" if key else message, where=where)
    return AthanorError(f"{key} is {describe(item['input'])}", where=where, fix=f"it should be {message}")


def _keys(path: KeyPath) -> list[str]:
    """Field names of the value at ``path``."""
    here: Any = Cluster
    for part in path:
        fields = getattr(here, "model_fields", {})
        annotation = fields[part].annotation if part in fields else None
        kinds = [annotation, *getattr(annotation, "__args__", ())]
        here = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), here)
    return list(here.model_fields)

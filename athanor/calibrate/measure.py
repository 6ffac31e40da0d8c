"""All measurements in their order, and the cluster that they make."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist

from athanor.calibrate import collectives, kernels, products, reference, shares
from athanor.calibrate.clock import Clock
from athanor.calibrate.needed import needed_by
from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.plan.cluster import (
    Attention,
    Cluster,
    CollectivePoint,
    Device,
    Dtype,
    Matmul,
    MatmulPoint,
    MemoryBound,
    Network,
    Node,
    SizePoint,
)
from athanor.plan.of_stage import StageBatch, batches_of
from athanor.plan.shape import Documents
from athanor.recipe.schema import Recipe
from athanor.train.allocator import keep_freed_memory
from athanor.train.compiling import cpp_compiler
from athanor.train.flops import peak_flops
from athanor.train.precision import compute_dtype, has_native_bf16

#: What stands for a model where no recipe is given: blocks of this shape.
GENERAL = ModelConfig(
    vocab_size=4096,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=8,
    max_position_embeddings=1024,
)
#: Bytes of the arrays that are copied: as large as activations of a small step, and beyond every cache.
COPIES = (8 * 2**20, 256 * 2**20)
_OPTIMIZED = 8_000_000
#: Spread of the timings from which on the figures are not to be relied on.
BUSY = 0.15


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure. ``recipe``: whose shapes; None: general ones. ``exact``: most shapes that get a point."""

    quick: bool = False
    recipe: Recipe | None = None
    cpu_clock: bool = False
    exact: int = 64


@dataclass(slots=True)
class Calibration:
    """The machine, and what was measured on the way (seconds, by name) for whoever wants to look."""

    cluster: Cluster
    details: dict[str, object] = field(default_factory=dict)


class Calibrator:
    """Measures on ``device``; every rank of the group must run one at the same time."""

    def __init__(self, device: torch.device, options: Options, say: Callable[[str], None]) -> None:
        self.device, self.options, self.say = device, options, say
        budget_s, least = (0.08, 3) if options.quick else (0.4, 7)
        self.clock = Clock(device, budget_s, least, "cpu" if options.cpu_clock and device.type == "cpu" else "wall")
        recipe = options.recipe
        self.config = recipe.model if recipe is not None and recipe.model is not None else GENERAL
        precision = recipe.train.precision if recipe is not None else "auto"
        self.torch_dtype = compute_dtype(precision, device)
        self.dtype: Dtype = "bf16" if self.torch_dtype == torch.bfloat16 else "fp32"
        self.batches = (
            batches_of(recipe.train, self.dtype)
            if recipe is not None
            else [StageBatch(512, 2048, None, self.dtype, True)]
        )
        self.details: dict[str, object] = {}
        self.notes: list[str] = []

    def run(self) -> Calibration:
        """Everything. Collective where there are several ranks."""
        reserved = float(self.clock.most(int(reserved_bytes(self.device))))
        with settled(self.device):
            cluster = self._bare(reserved)
            cluster = self._exact(cluster)
            cluster = self._attention(cluster)
            cluster = self._memory_bound(cluster)
            if self.clock.ranks > 1:
                cluster = self._links(cluster)
        made = Calibration(rounded(cluster.model_copy(update={"notes": self._notes()})), self.details)
        if self.clock.ranks == 1:
            return made
        box = [made]  # times are everyone's already; what else a rank reads of its machine is the main one's
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def _notes(self) -> str:
        """How the figures came about, in the file itself."""
        threads, spread = torch.get_num_threads(), self.clock.most_spread()
        if spread > BUSY:
            self.notes.append(f"timings spread by {spread:.0%}: the machine was busy, measure again on a quiet one")
            self.say(self.notes[-1])
        how = [
            f"measured by athanor calibrate over {self.clock.ranks} process{'es' * (self.clock.ranks > 1)} of "
            f"{threads} thread{'s' * (threads != 1)}, torch {torch.__version__}, {self.dtype}",
            *(["--quick"] if self.options.quick else []),
            *(["processor time instead of the wall clock"] if self.clock.kind == "cpu" else []),
            *self.notes,
        ]
        return "; ".join(how)

    # --- one device --------------------------------------------------------------------------------------------------

    def _bare(self, reserved: float) -> Cluster:
        """Memory, launches and products by size; the rest typical, until it is measured."""
        clock, device = self.clock, self.device
        self.say("memory and launches")
        launch_s = kernels.launch_s(clock)
        bandwidth = max(kernels.copy_bytes_per_s(clock, nbytes) for nbytes in COPIES)
        dtypes: list[Dtype] = [self.dtype]
        other: Dtype = "fp32" if self.dtype == "bf16" else "bf16"
        if other == "fp32" or has_native_bf16(device):
            dtypes.append(other)
        grids = {}
        for dtype in dtypes:
            self.say(f"matrix products by size, {dtype}")
            grids[dtype] = products.general_grid(clock, dtype, self.options.quick)
        peaks = {dtype: self._peak(dtype, grids[dtype][0], launch_s) for dtype in dtypes}
        return Cluster(
            name="calibrated",
            devices=clock.ranks,
            device=Device(
                name=device_name(device),
                peak_flops_per_s=peaks,
                memory_bytes=memory_bytes(device),
                memory_bytes_per_s=bandwidth,
                reserved_bytes=reserved,
                launch_s=launch_s,
                matmul=matmul_table(grids, peaks, launch_s),
                attention=Attention(forward=0.5, backward=0.5),
                memory_bound=MemoryBound(elementwise=1, norm=1, softmax=1, optimizer=1),
            ),
            # A device alone has no fabric; the figures stand there for the day when it gets neighbours.
            node=Node(devices=max(local_ranks(), 1), fabric="switch", bytes_per_s=1e9, latency_s=1e-4, efficiency=1),
            network=None
            if clock.ranks <= local_ranks()
            else Network(nics=1, bytes_per_s=1e9, latency_s=1e-4, efficiency=1),
        )

    def _peak(self, dtype: Dtype, cubes: list[products.Timing], launch_s: float) -> float:
        best = max(products.rate(timing, launch_s) for timing in cubes)
        if self.device.type == "cpu":
            return best
        return max(best, peak_flops(self.device, products.TORCH[dtype])[0])

    def _exact(self, cluster: Cluster) -> Cluster:
        """A point for every shape that the recipe's layouts ask for."""
        launch_s, found, asked = cluster.device.launch_s, {}, 0
        peaks = dict(cluster.device.peak_flops_per_s)
        for batch in self.batches:
            needed = needed_by(self.config, batch, cluster, self.clock.ranks)
            asked += len(needed.shapes)
            for shape in needed.shapes[: self.options.exact]:
                if shape not in found:
                    self.say(f"product {' × '.join(map(str, shape))} {self.dtype}")
                    as_roles = products.roles(shape, needed.tokens)
                    found[shape] = products.time_product(self.clock, shape, self.dtype, as_roles)
        self.details["products"] = {"asked": asked, "measured": len(found)}
        if not found:
            return cluster
        # The grid's best product was not the best there is: the peak is what was reached.
        best = max(products.rate(timing, launch_s) for timing in found.values())
        scale = max(best / peaks[self.dtype], 1.0)
        peaks[self.dtype] *= scale
        points = tuple(
            MatmulPoint(
                m=t.shape[0], n=t.shape[1], k=t.shape[2], dtype=self.dtype,
                efficiency=min(1.0, products.rate(t, launch_s) / peaks[self.dtype]),
            )
            for t in found.values()
        )  # fmt: skip
        table = cluster.device.matmul
        by_size = tuple(p.model_copy(update={"efficiency": p.efficiency / scale}) for p in table.by_size)
        return shares.with_device(cluster, peak_flops_per_s=peaks, matmul={"points": points, "by_size": by_size})

    def _attention(self, cluster: Cluster) -> Cluster:
        self.say("attention by document length")
        config, launch_s = self.config, cluster.device.launch_s
        longest = min(self.batches[0].seq_len, config.max_position_embeddings)
        lengths = [n for n in (kernels.QUICK_LENGTHS if self.options.quick else kernels.LENGTHS) if n <= longest]
        heads = kernels.Heads(config.num_attention_heads, config.num_key_value_heads, config.head_size)
        timings = kernels.time_attention(self.clock, heads, self.torch_dtype, lengths or [longest])
        peak = cluster.device.peak_flops_per_s[self.dtype]
        self.details["attention"] = [(t.length, t.forward_s, t.backward_s) for t in timings]
        return shares.with_device(cluster, attention=kernels.fit_attention(timings, heads, peak, launch_s))

    def _memory_bound(self, cluster: Cluster) -> Cluster:
        """Shares by what the product's own blocks, head and optimizer take."""
        batch = self._reference_batch()
        # Differences of whole steps are wanted exactly: these get more calls than single kernels.
        clock = replace(self.clock, budget_s=2.0 if self.options.quick else 10.0, least=7)
        can_compile = self.device.type != "cpu" or cpp_compiler() is not None
        wants = {b.compiled for b in self.batches} if self.options.quick else {True, False}
        timings = {}
        for compiled in sorted(wants):
            if compiled and not can_compile:
                continue
            self.say(f"blocks of the model, {'compiled' if compiled else 'eager'}")
            timings[compiled] = reference.time_block(
                clock, self.config, batch.rows, batch.seq_len, batch.seq_len, self.dtype, compiled
            )
        self.clock.spreads += clock.spreads
        fused, plain = timings.get(True), timings.get(False)
        known = shares.memory_shares(cluster, self.config, batch, fused or plain or _never(), plain if fused else None)
        self.say("optimizer")
        update_s = kernels.optimizer_s(self.clock, _OPTIMIZED, self.torch_dtype)
        known["optimizer"] = shares.optimizer_share(cluster, _OPTIMIZED, update_s, self.dtype)
        self.details["blocks"] = {("compiled" if k else "eager"): (t.block_s, t.ends_s) for k, t in timings.items()}
        if max(known["elementwise"], known["softmax"]) >= shares.FASTEST:
            self.notes.append(
                "products alone took as long as blocks with all that is in them: the machine was busy, measure again"
            )
            self.say(self.notes[-1])
        # Caches make some passes faster than a copy: the fastest of all is the bandwidth, and shares are of that.
        passes = known.pop("unfused_passes")
        fastest = max(1.0, *known.values())
        scaled = {name: share / fastest for name, share in known.items()}
        return shares.with_device(
            cluster,
            memory_bytes_per_s=cluster.device.memory_bytes_per_s * fastest,
            memory_bound={**scaled, "unfused_passes": passes},
        )

    def _reference_batch(self) -> StageBatch:
        """The first stage's micro-batch of one rank among all, each row one document."""
        first = self.batches[0]
        rows = max(1, first.rows // self.clock.ranks)
        if first.micro_batch_tokens is not None:
            rows = min(rows, max(1, first.micro_batch_tokens // first.seq_len))
        return StageBatch(first.seq_len, rows * first.seq_len, None, self.dtype, True, Documents.rows())

    # --- several -----------------------------------------------------------------------------------------------------

    def _links(self, cluster: Cluster) -> Cluster:
        """The fabric among this machine's ranks, and the network between machines: the i-th ranks of all."""
        world, local = self.clock.ranks, local_ranks()
        launch_s, node, network = cluster.device.launch_s, cluster.node, cluster.network
        if local > 1:
            self.say("collectives between this machine's ranks")
            line = self._line([list(range(at, at + local)) for at in range(0, world, local)], launch_s, "node")
            beside = collectives.contention(self.clock, self._group)
            node = node.model_copy(
                update={
                    "bytes_per_s": line.bytes_per_s,
                    "latency_s": line.latency_s,
                    "contention": beside,
                    "points": self._points(),
                }
            )
        if network is not None:
            self.say("collectives between machines")
            line = self._line([list(range(at, world, local)) for at in range(local)], launch_s, "network")
            # Every rank of a machine sends at the same time: together they have the machine's bandwidth.
            network = network.model_copy(update={"bytes_per_s": line.bytes_per_s * local, "latency_s": line.latency_s})
        return cluster.model_copy(update={"node": node, "network": network})

    def _points(self) -> tuple[CollectivePoint, ...]:
        """Raw collectives, those of tensor parallel, and (where one machine is all there is) of data parallel."""
        clock, batch = self.clock, self.batches[0]
        local = [t.point for t in self._timings if t.kind != "send"]
        self.say("tensor-parallel collectives")
        rows = batch.rows if batch.micro_batch_tokens is None else max(1, batch.micro_batch_tokens // batch.seq_len)
        assert self._group is not None
        tensor = collectives.time_tensor_collectives(
            clock, self._group, self._members, rows, self.config.hidden_size, self.torch_dtype, self.options.quick
        )
        if clock.ranks > len(self._members) or self.config.moe is not None:
            return (*local, *tensor)
        call_s = reference.tensor_call_s(clock, self.config, self.dtype)
        if call_s is not None:
            least = min(point.nbytes for point in tensor)
            latency_s = statistics.mean(point.seconds for point in tensor if point.nbytes == least)
            around_s = max(call_s - latency_s, 0.0)
            tensor = [point.model_copy(update={"seconds": point.seconds + around_s}) for point in tensor]
            self.details["tensor_parallel"] = {"latency_s": latency_s, "around_s": around_s}
        local += tensor
        self.say("data-parallel collectives")
        width = self.torch_dtype.itemsize
        for timing in reference.time_data_parallel(clock, self.config, self.dtype):
            for kind, each, seconds in (
                ("data_all_gather", width, timing.gather_s),
                ("data_reduce_scatter", 4, timing.scatter_s),
            ):
                if seconds > 0:
                    values = {"kind": kind, "ranks": clock.ranks, "seconds": seconds}
                    local.append(CollectivePoint.model_validate({**values, "nbytes": timing.parameters * each}))
        return tuple(local)

    def _line(self, groups: list[list[int]], launch_s: float, name: str) -> collectives.Line:
        mine, self._group = groups[0], None
        for ranks in groups:  # making a group is collective
            group = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                mine, self._group = ranks, group
        self._members = mine
        timings = self._timings = collectives.time_collectives(self.clock, self._group, mine, self.options.quick)
        line = collectives.fit_line(timings, launch_s)
        self.details[name] = {
            "collectives": [(t.kind, t.nbytes, t.seconds) for t in timings],
            "median_error": line.error,
        }
        return line


def _never() -> reference.BlockTiming:
    raise AthanorError("no block could be measured", fix="install a C++ compiler, or leave out --quick")


def matmul_table(
    grids: dict[Dtype, tuple[list[products.Timing], list[products.Timing]]], peaks: dict[Dtype, float], launch_s: float
) -> Matmul:
    """``by_size`` of the first dtype, how short k slows products, and the other dtype's part of that."""
    main = next(iter(grids))
    short = products.half_k(*grids[main], launch_s)

    def curve(dtype: Dtype) -> list[float]:
        return [
            min(1.0, products.rate(t, launch_s) / peaks[dtype] * (t.shape[2] + short) / t.shape[2])
            for t in grids[dtype][0]
        ]

    by_size = [SizePoint(flops=t.flops, efficiency=share) for t, share in zip(grids[main][0], curve(main), strict=True)]
    factors = {}
    for dtype in grids:
        ratios = sorted(a / b for a, b in zip(curve(dtype), curve(main), strict=True))
        factors[dtype] = min(1.0, ratios[len(ratios) // 2])
    return Matmul(by_size=tuple(by_size), half_k=short, dtype_factor=factors)


# --- the machine -----------------------------------------------------------------------------------------------------


def local_ranks() -> int:
    """Processes of the group on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))) if dist.is_initialized() else 1


def device_name(device: torch.device) -> str:
    """What the device calls itself; a CPU: its threads."""
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU, {threads} thread{'s' * (threads != 1)} a process"
    return str(torch.get_device_module(device).get_device_name(device))


def memory_bytes(device: torch.device) -> float:
    """Of an accelerator; of this machine for each of its processes, where they compute on the CPU."""
    if device.type != "cpu":
        return float(torch.get_device_module(device).mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / local_ranks()


def reserved_bytes(device: torch.device) -> float:
    """What is held before any tensor is made: by the driver, or by Python and its libraries."""
    if device.type != "cpu":
        torch.zeros(1, device=device)
        free, total = torch.get_device_module(device).mem_get_info(device)
        return float(total - free - torch.get_device_module(device).memory_reserved(device))
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return float(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return 300 * 2.0**20


@contextmanager
def settled(device: torch.device) -> Iterator[None]:
    """The settings that the trainer runs with: memory kept, deterministic kernels on a CPU."""
    if device.type != "cpu":
        yield
        return
    keep_freed_memory()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def rounded(cluster: Cluster) -> Cluster:
    """Four figures of everything: a measurement has no more. Checked anew, so that the file will load."""

    def short(value: object) -> object:
        if isinstance(value, float):
            return float(f"{value:.4g}")
        if isinstance(value, dict):
            return {key: short(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [short(item) for item in value]
        return value

    return Cluster.model_validate(short(cluster.model_dump()))

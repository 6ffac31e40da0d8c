"""What every benchmark shares: the shape, floating-point operations, the machine's matrix rate, timing, output.

Conventions, used everywhere and printed with the results:

- Model FLOPs are those of ``athanor.train.flops``: 2 operations a weight of a matrix product and token (head included,
  embedding look-up not) plus 4 · heads · head_dim a layer and attended pair, times 3 for forward and backward.
  ``causal`` counts the pairs that causal attention inside documents needs, ``full`` counts all pairs of the context.
- MFU_cpu is model FLOPs (causal) per second divided by the matrix rate of that precision, measured in the same run: the
  products of one step at the model's own shapes (forward, input gradient, weight gradient), weighted as in the step.
  The rate of a 2048³ product is printed beside it.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.train import flops


@dataclass(frozen=True, slots=True)
class Shape:
    """One decoder shape that every contender builds, and the batch of a step (``rows`` × ``context`` tokens)."""

    name: str
    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    context: int
    rows: int

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.width // self.heads

    @property
    def tokens(self) -> int:
        """Positions of one step."""
        return self.rows * self.context

    @property
    def products(self) -> list[tuple[int, int, int]]:
        """(inputs, outputs, how many) of every matrix product of the forward pass."""
        kv = self.kv_heads * self.head_dim
        return [
            (self.width, self.width, 2 * self.layers),  # q, o
            (self.width, kv, 2 * self.layers),  # k, v
            (self.width, self.ffn, 2 * self.layers),  # gate, up
            (self.ffn, self.width, self.layers),  # down
            (self.width, self.vocab, 1),  # head
        ]

    def flops_per_token(self, convention: flops.Convention = "causal") -> float:
        """Model FLOPs per token of a training step with documents that fill the context."""
        return flops.flops_per_token(self.config(dssn=False), self.context, convention)

    def config(self, *, dssn: bool) -> ModelConfig:
        """Athanor's config of this shape: pre-norm as in Llama, or its default depth-scaled sandwich with TinyInit."""
        return ModelConfig(
            vocab_size=self.vocab,
            hidden_size=self.width,
            intermediate_size=self.ffn,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=self.context,
            norm_placement="depth_scaled_sandwich" if dssn else "pre",
            init="tiny" if dssn else "scaled-residual",
        )


def sync(device: torch.device) -> None:
    """Wait for an accelerator; nothing on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    sync(device)
    start = time.perf_counter()
    call()
    sync(device)
    return time.perf_counter() - start


def gemm_rate(shape: Shape, dtype: torch.dtype, device: torch.device, rounds: int = 3) -> float:
    """FLOP/s of a step's matrix products at the model's shapes, weighted as in the step; the best of ``rounds``."""
    total_s, total = 0.0, 0.0
    for inputs, outputs, count in sorted(set(shape.products)):
        x = torch.randn(shape.tokens, inputs, device=device, dtype=dtype)
        w = torch.randn(outputs, inputs, device=device, dtype=dtype)
        g = torch.randn(shape.tokens, outputs, device=device, dtype=dtype)

        def step(x: torch.Tensor = x, w: torch.Tensor = w, g: torch.Tensor = g) -> None:
            torch.nn.functional.linear(x, w)
            g @ w
            g.T @ x

        step()
        total_s += count * min(timed(step, device) for _ in range(rounds))
        total += count * 6.0 * shape.tokens * inputs * outputs
    return total / total_s


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, and the range between the quartiles as a share of it."""

    median: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        middle = statistics.median(values)
        if len(values) < 2:
            return cls(middle, 0.0)
        q1, _, q3 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, (q3 - q1) / middle)


def environment(threads: int | None = None) -> dict[str, Any]:
    """What the numbers depend on: processor or accelerator, versions, threads."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        cpu = next((x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")), cpu)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = torch.get_device_module(accelerator).get_device_name() if accelerator is not None else "none"
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "accelerator": device,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": threads,
        "load_average_1m": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def write_result(result: dict[str, Any], out: Path | None, shape: Shape) -> None:
    """JSON beside the tables."""
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"shape": asdict(shape), **result}, indent=1, ensure_ascii=False) + "\n", "utf-8")


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], console: Console | None = None) -> None:
    """Print a table; floats with four significant digits."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    (console or Console(width=150)).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def small_decoder(seed: int, vocab_size: int, seq_len: int, hidden_size: int, num_hidden_layers: int) -> Decoder:
    """A proxy model for benchmarks of data: depth-scaled sandwich norms, tied embeddings, four heads."""
    config = ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=-(-(8 * hidden_size // 3) // 32) * 32,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        norm_placement="depth_scaled_sandwich",
        init="tiny",
        max_position_embeddings=seq_len,
    )
    model = Decoder(config)
    init_weights(model, seed)
    return model

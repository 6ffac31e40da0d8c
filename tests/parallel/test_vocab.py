"""The vocabulary-parallel head against the one-device head and the plain formula, and what it holds at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from athanor.errors import AthanorError
from athanor.model import head
from athanor.parallel import vocab as room
from athanor.parallel.vocab import VocabParallel
from tests.parallel.ranks import run_ranks

N, V, D = 150, 67, 16  # three chunks of at most 64 tokens; 3 ranks hold 23, 23 and 21 rows
SCALES = {"usual": 1.0, "huge": 3000.0}  # huge: a softmax without the common maximum overflows


def inputs(scale: float = 1.0, dtype: torch.dtype = torch.float64, n: int = N, v: int = V) -> list[torch.Tensor]:
    """hidden [N, D], weight [V, D], labels [N], a weight for each token [N]."""
    generator = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(rows, D, generator=generator, dtype=torch.float64) for rows in (n, v))
    labels = torch.randint(0, v, (n,), generator=generator)
    mix = torch.randn(n, generator=generator, dtype=torch.float64)
    return [(hidden * scale).to(dtype), weight.to(dtype), labels, mix]


def results(cross_entropy: Any, logprobs: Any, data: list[torch.Tensor], leaf: Any) -> dict[str, torch.Tensor]:
    """Both functions and their gradients; ``leaf`` makes the parameter and reads its gradient."""
    out = {}
    for name in ("loss", "logp"):
        hidden, weight = data[0].clone().requires_grad_(), leaf.make(data[1])
        if name == "loss":
            out[name] = cross_entropy(hidden, weight, data[2])
            (out[name] * 0.5).backward()
        else:
            out[name], out["entropy"] = logprobs(hidden, weight, data[2], 0.7)
            assert not out["entropy"].requires_grad
            (out[name] * data[3].to(out[name].dtype)).sum().backward()
        out |= {f"{name}/hidden": hidden.grad, f"{name}/weight": leaf.grad(weight)}
    return {name: value.detach() for name, value in out.items()}


class Plain:
    """A parameter on one device."""

    @staticmethod
    def make(weight: torch.Tensor) -> torch.Tensor:
        return weight.clone().requires_grad_()

    @staticmethod
    def grad(weight: torch.Tensor) -> torch.Tensor:
        assert weight.grad is not None
        return weight.grad


class Sharded:
    """A DTensor whose rows lie on several ranks."""

    def __init__(self) -> None:
        self.mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def make(self, weight: torch.Tensor) -> torch.Tensor:
        part = weight.chunk(dist.get_world_size())[dist.get_rank()].clone()
        whole = DTensor.from_local(part, self.mesh, [Shard(0)], shape=weight.shape, stride=weight.stride())
        return torch.nn.Parameter(whole)

    @staticmethod
    def grad(weight: torch.Tensor) -> torch.Tensor:
        assert isinstance(weight.grad, DTensor)
        return weight.grad.full_tensor()


def formula(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0) -> Any:
    log_p = torch.log_softmax(hidden @ weight.T / temperature, -1)
    return log_p[torch.arange(len(labels)), labels], -(log_p.exp() * log_p).sum(-1).detach()


class Largest(TorchDispatchMode):
    """The most elements that any tensor made under it has."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


def on_ranks(world: int) -> dict[str, Any]:
    room.CHUNK_ELEMENTS = head.CHUNK_ELEMENTS = 1  # the least chunk: 64 tokens
    vocab, leaf = VocabParallel(dist.group.WORLD, V), Sharded()  # type: ignore[arg-type]
    run = lambda data: results(vocab.cross_entropy, vocab.token_logprobs, data, leaf)  # noqa: E731
    out: dict[str, Any] = {name: run(inputs(scale)) for name, scale in SCALES.items()}
    out["bfloat16"] = run(inputs(dtype=torch.bfloat16))
    out["none"] = run(inputs(n=0))
    hidden, weight, labels, _ = inputs()
    frozen = leaf.make(weight).requires_grad_(False)
    hidden.requires_grad_()
    vocab.cross_entropy(hidden, frozen, labels).backward()
    out["frozen"] = hidden.grad
    out["logits"] = vocab.logits(hidden.detach().view(3, 50, D), frozen)
    wide = VocabParallel(dist.group.WORLD, 64 * world)  # type: ignore[arg-type]
    data = inputs(n=400, v=64 * world)
    with Largest() as seen:
        results(wide.cross_entropy, wide.token_logprobs, data, Local(data[1]))
    out["largest"] = seen.elements
    try:
        VocabParallel(dist.group.WORLD, world * (world - 1))  # type: ignore[arg-type]
        VocabParallel(dist.group.WORLD, world - 1)  # type: ignore[arg-type]
    except AthanorError as error:
        out["refused"] = str(error)
    return out


class Local:
    """This rank's rows as a plain tensor, so that nothing but the head's own work is seen."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.part = weight.chunk(dist.get_world_size())[dist.get_rank()].clone()

    def make(self, _weight: torch.Tensor) -> torch.Tensor:
        return self.part.detach().requires_grad_()

    @staticmethod
    def grad(weight: torch.Tensor) -> torch.Tensor:
        assert weight.grad is not None
        return weight.grad


@pytest.fixture(scope="module", params=[2, 3])
def found(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run_ranks(request.param, on_ranks, request.param)


@pytest.mark.parametrize("scale", SCALES)
def test_equals_one_device_and_the_formula(found: list[dict[str, Any]], scale: str) -> None:
    data = inputs(SCALES[scale])
    one = results(head.cross_entropy_sum, head.token_logprobs, data, Plain)
    plain = results(lambda *a: -formula(*a)[0].sum(), formula, data, Plain)
    for got in found:
        for name in one:
            for want in (one, plain):
                bound = 1e-9 * max(1.0, float(want[name].abs().max()))
                assert (got[scale][name] - want[name]).abs().max() < bound, name
        assert all(torch.equal(got[scale][name], found[0][scale][name]) for name in one)


def test_bfloat16_has_wide_sums(found: list[dict[str, Any]]) -> None:
    one = results(head.cross_entropy_sum, head.token_logprobs, inputs(dtype=torch.bfloat16), Plain)
    for got in found:
        for name in ("loss", "logp", "entropy"):  # logits are rounded alike; sums are float32 in another order
            assert got["bfloat16"][name].dtype == torch.float32
            torch.testing.assert_close(got["bfloat16"][name], one[name], atol=1e-4, rtol=1e-5)
        for name in ("loss/hidden", "logp/hidden", "loss/weight", "logp/weight"):  # rounded parts are added: 2⁻⁷
            assert got["bfloat16"][name].dtype == torch.bfloat16
            scale = float(one[name].float().abs().max())
            torch.testing.assert_close(got["bfloat16"][name], one[name], atol=scale / 128, rtol=0.0)


def test_frozen_weights_logits_and_no_tokens(found: list[dict[str, Any]]) -> None:
    hidden, weight, labels, _ = inputs()
    leaf = hidden.clone().requires_grad_()
    head.cross_entropy_sum(leaf, weight, labels).backward()
    for got in found:
        assert leaf.grad is not None and (got["frozen"] - leaf.grad).abs().max() < 1e-9
        assert (got["logits"] - (hidden @ weight.T).view(3, 50, V)).abs().max() < 1e-9
        assert got["none"]["loss"] == 0 and got["none"]["logp"].shape == (0,)
        assert not got["none"]["loss/weight"].any() and got["none"]["loss/weight"].shape == (V, D)


def test_never_holds_the_logits(found: list[dict[str, Any]]) -> None:
    for got in found:  # a chunk of 64 tokens × 64 rows, or the hidden states; not 400 × 64, let alone 400 × V
        assert got["largest"] == max(64 * 64, 400 * D) < 400 * 64


def test_a_rank_without_a_row_is_refused(found: list[dict[str, Any]]) -> None:
    for got in found:
        assert "without a row" in got["refused"]

"""Matrix products in pieces along the sequence, the collective of one piece running while another is multiplied.

The MC² idea (arXiv 2504.07866, section 4.2) on plain tensors and a process group. On CUDA ranks of one host that reach
each other's memory PyTorch's kernels over symmetric memory take the place of the pieces.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

_ops = torch.ops._c10d_functional

# ---------------------------------------------------------------------------------------------------------------------
# Collectives that have begun: the functional operators give their buffer at once, ``wait_tensor`` makes it valid.


def begin_gather(x: torch.Tensor, size: int, name: str) -> torch.Tensor:
    """The ranks' x one after another along the first dimension."""
    return _ops.all_gather_into_tensor(x.contiguous(), size, name)  # type: ignore[no-any-return]


def begin_scatter(x: torch.Tensor, size: int, name: str) -> torch.Tensor:
    """The ranks' sum of x; of its first dimension this rank's part."""
    return _ops.reduce_scatter_tensor(x.contiguous(), "sum", size, name)  # type: ignore[no-any-return]


def by_rank(x_BTD: torch.Tensor, size: int) -> torch.Tensor:
    """[B, T, D] → [ranks · B, T/ranks, D], as a reduce-scatter wants it."""
    return x_BTD.unflatten(1, (size, -1)).transpose(0, 1).flatten(0, 1)


def by_row(x: torch.Tensor, size: int) -> torch.Tensor:
    """[ranks · B, T/ranks, D], as an all-gather gives it → [B, T, D]."""
    return x.unflatten(0, (size, -1)).transpose(0, 1).flatten(1, 2)


# ---------------------------------------------------------------------------------------------------------------------
# Products.


def all_gather_matmul(
    x_BtD: torch.Tensor, weights: Sequence[torch.Tensor], group: dist.ProcessGroup, chunks: int
) -> list[torch.Tensor]:
    """``[F.linear(gathered, w) for w in weights]``, where ``gathered`` [B, T, D] puts the ranks' x [B, T/ranks, D] one
    after another: one [B, T, F] for each weight [F, D]. The gather goes in ``chunks`` pieces (at most T/ranks).

    The backward pass overlaps the reduce-scatter of the input's gradient likewise, and gathers x again, behind those
    products, for the gradients of the weights: only x is kept.
    """
    return list(_AllGatherMatmul.apply(x_BtD, group, chunks, *weights))


def matmul_reduce_scatter(
    x_BTF: torch.Tensor, weight_DF: torch.Tensor, group: dist.ProcessGroup, chunks: int
) -> torch.Tensor:
    """This rank's T/ranks tokens of the sum over ranks of ``F.linear(x, weight)``: [B, T, F] → [B, T/ranks, D].

    In ``chunks`` pieces (at most T/ranks), forward and backward; T must be a multiple of the ranks.
    """
    return _MatmulReduceScatter.apply(x_BTF, weight_DF, group, chunks)  # type: ignore[no-any-return]


class _AllGatherMatmul(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BtD: torch.Tensor, group: dist.ProcessGroup, chunks: int, *weights: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.group, ctx.chunks = group, chunks
        ctx.save_for_backward(x_BtD, *weights)
        return tuple(_gather_multiply(x_BtD, [w.t() for w in weights], group, chunks, keep=False)[0])

    @staticmethod
    def backward(ctx: Any, *grads_BTF: torch.Tensor) -> Any:  # type: ignore[override]
        x_BtD, *weights = ctx.saved_tensors
        size, name, wanted = ctx.group.size(), ctx.group.group_name, ctx.needs_input_grad[3:]
        again = begin_gather(x_BtD, size, name) if any(wanted) else None
        pairs = list(zip(grads_BTF, weights, strict=True))
        going = _multiply_scatter(pairs, ctx.group, ctx.chunks) if ctx.needs_input_grad[0] else None
        grad_w: list[torch.Tensor | None] = [None] * len(weights)
        if again is not None:
            x_ND = by_row(_ops.wait_tensor(again), size).flatten(0, 1)
            grad_w = [
                grad.flatten(0, 1).t() @ x_ND if want else None for grad, want in zip(grads_BTF, wanted, strict=True)
            ]
        grad_x = None if going is None else going()
        return grad_x, None, None, *grad_w


class _MatmulReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BTF: torch.Tensor, weight_DF: torch.Tensor, group: dist.ProcessGroup, chunks: int
    ) -> torch.Tensor:
        ctx.group, ctx.chunks = group, chunks
        ctx.save_for_backward(x_BTF, weight_DF)
        return _multiply_scatter([(x_BTF, weight_DF.t())], group, chunks)()

    @staticmethod
    def backward(ctx: Any, grad_BtD: torch.Tensor) -> Any:  # type: ignore[override]
        x_BTF, weight_DF = ctx.saved_tensors
        need_x, need_w = ctx.needs_input_grad[:2]
        matrices = [weight_DF] if need_x else []
        products, grad_BTD = _gather_multiply(grad_BtD, matrices, ctx.group, ctx.chunks, keep=need_w)
        grad_w = grad_BTD.flatten(0, 1).t() @ x_BTF.flatten(0, 1) if grad_BTD is not None else None
        return products[0] if need_x else None, grad_w, None, None


def _pieces(length: int, chunks: int) -> list[tuple[int, int]]:
    count = max(1, min(chunks, length))
    return [(length * i // count, length * (i + 1) // count) for i in range(count)]


def _gather_multiply(
    x_BtK: torch.Tensor, matrices: list[torch.Tensor], group: dist.ProcessGroup, chunks: int, *, keep: bool
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """The gathered x [B, T, K] times each matrix [K, N], and x itself where it is to be kept."""
    size, name = group.size(), group.group_name
    if matrices and _symmetric(x_BtK, group):
        kept, outs = torch.ops.symm_mem.fused_all_gather_matmul(x_BtK, matrices, 1, name, return_A=keep)
        return outs, kept
    rows, length, width = x_BtK.shape
    outs = [x_BtK.new_empty(rows, size, length, matrix.shape[1]) for matrix in matrices]
    whole = x_BtK.new_empty(rows, size, length, width) if keep else None
    pieces = _pieces(length, chunks)
    coming = begin_gather(x_BtK[:, slice(*pieces[0])], size, name)
    for i, (low, high) in enumerate(pieces):
        arrived = coming
        if i + 1 < len(pieces):
            coming = begin_gather(x_BtK[:, slice(*pieces[i + 1])], size, name)
        part_NK = _ops.wait_tensor(arrived).flatten(0, 1)  # tokens by rank, row, place
        for out, matrix in zip(outs, matrices, strict=True):
            out[:, :, low:high] = (part_NK @ matrix).view(size, rows, high - low, -1).transpose(0, 1)
        if whole is not None:
            whole[:, :, low:high] = part_NK.view(size, rows, high - low, width).transpose(0, 1)
    return [out.flatten(1, 2) for out in outs], None if whole is None else whole.flatten(1, 2)


def _multiply_scatter(
    pairs: list[tuple[torch.Tensor, torch.Tensor]], group: dist.ProcessGroup, chunks: int
) -> Callable[[], torch.Tensor]:
    """Σ x [B, T, K] @ matrix [K, N] over ``pairs`` and over ranks. The call returns when all is multiplied; what it
    returns waits and gives this rank's tokens [B, T/ranks, N]."""
    size, name = group.size(), group.group_name
    if _symmetric(pairs[0][0], group):
        x_BTK, matrix_KN = torch.cat([x for x, _ in pairs], -1), torch.cat([matrix for _, matrix in pairs])
        out = torch.ops.symm_mem.fused_matmul_reduce_scatter(x_BTK, matrix_KN, "sum", 1, name)
        return lambda: out
    rows, length = pairs[0][0].shape[0], pairs[0][0].shape[1] // size
    going: list[torch.Tensor] = []
    pieces = _pieces(length, chunks)
    for low, high in pieces:
        total = None
        for x_BTK, matrix_KN in pairs:
            part_NK = x_BTK.unflatten(1, (size, length))[:, :, low:high].transpose(0, 1).flatten(0, 2)
            total = part_NK @ matrix_KN if total is None else total.addmm_(part_NK, matrix_KN)
        assert total is not None
        going.append(begin_scatter(total, size, name))

    def finish() -> torch.Tensor:
        done = [_ops.wait_tensor(x).view(rows, high - low, -1) for x, (low, high) in zip(going, pieces, strict=True)]
        return torch.cat(done, dim=1)

    return finish


def _symmetric(x: torch.Tensor, group: dist.ProcessGroup) -> bool:
    """Whether PyTorch's kernels over symmetric memory can serve: CUDA ranks that reach each other's memory."""
    return x.is_cuda and x.dtype in (torch.bfloat16, torch.float16, torch.float32) and _reachable(group)


@cache
def _reachable(group: dist.ProcessGroup) -> bool:
    """The same answer on every rank of a group: all on one host, and peers to each other as CUDA says."""
    try:
        import torch.distributed._symmetric_memory  # noqa: F401  # registers the operators
    except ImportError:
        return False
    ranks = dist.get_process_group_ranks(group)
    per_host = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if len(ranks) == 1 or len({rank // per_host for rank in ranks}) > 1:
        return False
    devices = [rank % per_host for rank in ranks]
    if max(devices) >= torch.cuda.device_count():
        return False
    return all(torch.cuda.can_device_access_peer(a, b) for a in devices for b in devices if a != b)

"""How many tokens reach whom when routing is even."""

from __future__ import annotations


def even(total: int, parts: int) -> list[int]:
    """``total`` as ``parts`` numbers that differ by at most one, the larger ones first."""
    least, rest = divmod(total, parts)
    return [least + (i < rest) for i in range(parts)]


def received_rows(sent: int, n_experts: int, ep: int, at: int) -> int:
    """Rows that rank ``at`` of ``ep`` gets for its experts when every rank sends ``sent`` rows evenly."""
    each = n_experts // ep
    return ep * sum(even(sent, n_experts)[at * each : (at + 1) * each])

"""Which process of a launched group this is, from the environment that ``torchrun`` and ``athanor launch`` set.

Kept apart from ``athanor.parallel`` so that rooms which only ask "do I write this file?" need no torch.
"""

from __future__ import annotations

import os


def rank() -> int:
    """This process's number in its group; 0 for a process on its own."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """How many processes the group has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes what the group shares: metrics, events, messages."""
    return rank() == 0

"""What the planner says of the same step: the peak of everything, to stand beside the dry run's."""

from __future__ import annotations

import numpy as np
import torch

from athanor.errors import AthanorError
from athanor.plan.cluster import load_cluster
from athanor.plan.cost import Problem, evaluate
from athanor.plan.layouts import Layouts
from athanor.plan.shape import Documents
from athanor.plan.traits import ENGINES
from athanor.plan.workload import Workload, coordinates


def planned_peak_bytes(work: Workload, rank: int) -> int | None:
    """Bytes of the planner's fullest moment on ``rank`` (`athanor plan`), without what libraries allocate for
    themselves, which a dry run does not see. None for a step that the planner has no figure of: another precision than
    bfloat16, or recomputation by budget, which it settles only for whole machines."""
    if work.dtype != torch.bfloat16 or work.plan.recompute.mode == "budget":
        return None
    engine = ENGINES["athanor"]
    rows = work.rows * work.micro_batches * work.plan.dp
    # Memory does not depend on the machine; a shipped one is taken to ask at all.
    cluster = load_cluster("h100-1024").resized(work.plan.world_size)
    problem = Problem(work.config, work.seq_len, rows, cluster, engine, Documents.rows())
    try:
        layouts = Layouts.of([work.plan], work.config.num_hidden_layers, work.rows, work.micro_batches)
        held = evaluate(problem, layouts).memory.allocated[0]
    except AthanorError:
        return None
    stage = coordinates(work.plan, rank)["pp"]
    return int(np.ceil(held[stage] - engine.workspace_bytes))

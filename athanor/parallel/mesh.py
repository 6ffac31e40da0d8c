"""Which rank is where: the named dimensions of a plan as device meshes and process groups."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from athanor.errors import AthanorError
from athanor.parallel.plan import ParallelPlan

#: Outermost first: neighbours in tensor parallel are neighbours in rank, hence on one node.
DIMS = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
#: Names for several neighbouring dimensions together.
FLAT = {
    "dp": ("dp_replicate", "dp_shard"),  # different data
    "fsdp": ("dp_shard", "cp"),  # parameters are spread over these
    "loss": ("dp_replicate", "dp_shard", "cp"),  # a loss is summed over these
}


@dataclass
class Ranks:
    """This process's place. ``mesh`` has the dimensions of ``DIMS``; ``experts`` lays the same ranks out as
    (pp, dp_replicate, expert_fsdp, ep, tp), where expert_fsdp · ep = dp_shard · cp."""

    plan: ParallelPlan
    device: torch.device
    mesh: DeviceMesh
    experts: DeviceMesh
    _flat: dict[str, DeviceMesh] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: ParallelPlan, device: torch.device) -> Ranks:
        """From an initialised default process group; every rank calls it at the same time."""
        world = dist.get_world_size()
        if plan.world_size != world:
            parts = " · ".join(f"{name} {getattr(plan, name)}" for name in DIMS)
            raise AthanorError(
                f"the plan needs {plan.world_size} ranks ({parts}), {world} were started",
                where="parallel",
                fix=f"start {plan.world_size} ranks, or change the layout so that its product is {world}",
            )
        sizes = tuple(getattr(plan, name) for name in DIMS)
        mesh = init_device_mesh(device.type, sizes, mesh_dim_names=DIMS)
        fsdp = plan.dp_shard * plan.cp
        if fsdp % plan.ep:
            raise AthanorError(f"ep {plan.ep} does not divide dp_shard · cp = {fsdp}", where="parallel.ep")
        layout = (plan.pp, plan.dp_replicate, fsdp // plan.ep, plan.ep, plan.tp)
        names = ("pp", "dp_replicate", "expert_fsdp", "ep", "tp")
        ranks = cls(plan, device, mesh, init_device_mesh(device.type, layout, mesh_dim_names=names))
        for name, dims in FLAT.items():  # collective: every rank makes all of them in the same order
            ranks._flat[name] = mesh[dims]._flatten(name)
        return ranks

    def sub(self, *names: str) -> DeviceMesh:
        """The mesh of one dimension, of a flat name, or of several dimensions."""
        if len(names) == 1 and names[0] in self._flat:
            return self._flat[names[0]]
        whole = self.experts if set(names) & {"ep", "expert_fsdp"} else self.mesh
        if len(names) > 1:
            return whole[names]
        return self._flat.setdefault(names[0], whole[names[0]])  # a step asks often, and slicing works on tensors

    def group(self, name: str) -> dist.ProcessGroup:
        """The process group of one dimension or flat name."""
        return self.sub(name).get_group()

    def at(self, name: str) -> int:
        """This rank's place in a dimension or flat name."""
        return self.sub(name).get_local_rank()

    def size(self, name: str) -> int:
        """How many ranks a dimension or flat name has."""
        return self.sub(name).size()

    @property
    def rank(self) -> int:
        """The global rank."""
        return dist.get_rank()

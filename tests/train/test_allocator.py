"""Freed memory stays in the process: a second pass over the same large buffers faults in next to nothing."""

import subprocess
import sys

CODE = """
import resource, sys, torch
from athanor.train.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else True
def step():
    activations = [torch.ones(2 * 2**20) for _ in range(20)]  # 8 MB each, freed together
    del activations
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept, int(count)


def test_page_faults_go_away() -> None:
    kept, count = faults("keep")
    if kept == "True":
        assert count < faults("leave")[1] / 10
    else:
        assert count >= 0  # another C library: nothing was changed

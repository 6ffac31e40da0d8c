"""Freed memory stays in the process: later passes over the same large buffers fault in next to nothing."""

import os
import subprocess
import sys

CODE = """
import resource, sys, torch
from athanor.train.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else True
def step():
    activations = [torch.ones(2 * 2**20) for _ in range(20)]  # 8 MB each, freed together
    del activations
for _ in range(3):  # the heap finds its size
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> tuple[str, int]:
    """What the call said, and the page faults of one more pass over 160 MB.

    The process begins with glibc's first threshold pinned: left alone it moves with what was freed before, and the
    plain case would sometimes be fast by luck.
    """
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True, env=env)
    kept, count = done.stdout.split()
    return kept, int(count)


def test_page_faults_go_away() -> None:
    kept, count = faults("keep")
    plain = faults("leave")[1]
    if kept == "True":
        assert plain > 10_000 and count < plain / 4
    else:  # another C library: nothing was changed
        assert count > plain / 4

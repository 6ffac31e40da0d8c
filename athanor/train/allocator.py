"""Keep freed memory in the process: a training step frees and takes the same buffers over and over.

glibc gives every block above its mmap threshold back to the kernel when it is freed, so each large activation of each
step is mapped and faulted in again: 40 to 120 thousand page faults a step at 30 M parameters (docs/lab-notes.md).
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MMAP_THRESHOLD = 32 * 2**20  # the largest that glibc accepts on 64 bits
_TRIM_THRESHOLD = 2**31 - 1
_TOP_PAD = 64 * 2**20


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for this process; False where the C library is another one. Safe to call again."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_MMAP_THRESHOLD, _MMAP_THRESHOLD), (_M_TRIM_THRESHOLD, _TRIM_THRESHOLD), (_M_TOP_PAD, _TOP_PAD))
    return all([bool(libc.mallopt(name, value)) for name, value in settings])

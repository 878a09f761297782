"""How much memory a process holds, and the most it held: of CUDA's allocator, or, for
the CPU, of the whole process as Linux counts it."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
USED = (
    Path("/sys/fs/cgroup/memory.current"),
    Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
"""From <malloc.h>."""
SMALL = 64 * 1024
LARGE = 2**30


def available_memory(device: torch.device) -> int:
    """Bytes that this rank may still take: of a GPU, or its share of the machine's."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if Path("/proc/meminfo").is_file():
        free = 1024 * _entry(Path("/proc/meminfo"), "MemAvailable")
    for limit, used in zip(LIMITS, USED, strict=True):
        if limit.is_file() and (text := limit.read_text().strip()) != "max":
            free = min(free, int(text) - int(used.read_text()))
    return max(0, free) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class PeakMemory:
    """The most that is held from now on, beyond what is held now."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start: int = 0
        gc.collect()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self.start = torch.cuda.memory_allocated(device)
        elif self.known:
            ctypes.CDLL(None).malloc_trim(0)
            CLEAR.write_text("5")  # the peak is what is held now
            self.start = 1024 * _entry(STATUS, "VmRSS")

    @property
    def known(self) -> bool:
        return self.device.type == "cuda" or (
            sys.platform == "linux" and CLEAR.is_file()
        )

    def read(self) -> int | None:
        """Bytes; None: this system does not tell."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device) - self.start
        if not self.known:
            return None
        return 1024 * _entry(STATUS, "VmHWM") - self.start


def give_back_freed_memory(at_once: bool) -> None:
    """glibc: what is freed goes back to the system `at_once`, so that a process holds
    what its tensors take and no more, or never, which is faster."""
    if sys.platform == "linux":
        size = SMALL if at_once else LARGE
        libc = ctypes.CDLL(None)
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(option, size)


def _entry(path: Path, name: str) -> int:
    """KiB."""
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    return 0

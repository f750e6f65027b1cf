"""What a machine is, how fast its memory is read, and whether anything else runs on it."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from .. import toolchain
from .turns import clock

READER = r"""
#include <pthread.h>
#include <stdint.h>
#include <stddef.h>
typedef struct { const uint64_t* data; size_t count; uint64_t sum; } part;
static void* read_part(void* arg) {
  part* p = arg;
  uint64_t a[32] = {0};
  for (size_t i = 0; i + 32 <= p->count; i += 32)
    for (int k = 0; k < 32; k++) a[k] += p->data[i + k];
  for (int k = 0; k < 32; k++) p->sum += a[k];
  return 0;
}
uint64_t read_all(const uint64_t* data, size_t count, int threads) {
  pthread_t ids[64];
  part parts[64];
  uint64_t sum = 0;
  for (int t = 0; t < threads; t++) {
    size_t begin = count * t / threads, end = count * (t + 1) / threads;
    parts[t] = (part){data + begin, end - begin, 0};
    if (t) pthread_create(&ids[t], 0, read_part, &parts[t]);
  }
  read_part(&parts[0]);
  for (int t = 1; t < threads; t++) pthread_join(ids[t], 0);
  for (int t = 0; t < threads; t++) sum += parts[t].sum;
  return sum;
}
"""


def bandwidth(threads: int, size: int = 1 << 28) -> float:
    """Bytes a second that `threads` read together from 256 MB: the best of seven passes."""
    import numpy as np

    data = np.ones(size // 8, np.uint64)
    compiler = toolchain.find_native()
    if compiler is None:  # one thread, by numpy
        return size / best(lambda: data.sum())
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "read.so"
        command = [*compiler.command, "-O3", "-march=native", "-shared", "-fPIC"]
        command += ["-pthread", "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=READER.encode(), check=True, capture_output=True)
        read = ctypes.CDLL(str(library)).read_all
        read.restype, read.argtypes = ctypes.c_uint64, [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        return size / best(lambda: read(data.ctypes.data, data.size, min(threads, 64)))


def best(call: Callable[[], object]) -> float:
    return min(clock(call)[0] for _ in range(7))


def busy() -> str:
    """A warning where other programs run before anything is measured, else nothing."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return (
        f" Other programs ran at the same time (load {load:.1f}): take no figure from this run." if load > 0.7 else ""
    )


def describe() -> str:
    """The processor and the instruction sets that matter here."""
    wanted = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    sets = ", ".join(name for name in wanted if name in flags) or "no vector set that is known here"
    return f"{fields.get('model name', platform.machine())}, {os.cpu_count()} cores, with {sets}"

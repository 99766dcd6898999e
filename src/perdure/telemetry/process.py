"""What every process has, under the names that all of Prometheus' clients give it. Read by hand: importing
`prometheus_client` would hold up the event loop for longer than a page takes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

from perdure.metrics import Family, Sample, gauge

_BEGAN = time.time()


def process() -> Iterator[Family]:
    """Memory, processor time and open files; what the system does not tell is left out."""
    times = os.times()
    used = [Sample({}, times.user + times.system)]
    yield Family("process_cpu_seconds_total", "counter", "Processor time spent, in seconds.", used)
    yield gauge("process_start_time_seconds", "When it was started, since 1970 UTC.", _BEGAN)
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            virtual, resident = (int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in file.read().split()[:2])
        yield gauge("process_virtual_memory_bytes", "Memory that it may address.", virtual)
        yield gauge("process_resident_memory_bytes", "Memory that it has.", resident)
        yield gauge("process_open_fds", "Open files and connections.", len(os.listdir("/proc/self/fd")) - 1)
    if sys.platform != "win32":
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield gauge("process_max_fds", "How many it may have.", most)

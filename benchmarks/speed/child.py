"""Run a command as a process of its own and print what it took, as JSON on the last line.

    python benchmarks/speed/child.py COMMAND...

Linux counts the memory of the process that starts another one to the peak of the started one.
That is why this small process stands between, which imports nothing that is large.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

_SAMPLE_SECONDS = 0.01


def main() -> None:
    """Run the command, sampling the memory that is its own and not a mapped file's."""
    started = time.perf_counter()
    # Its output would be mixed with the line that is printed here.
    child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
    anonymous = 0
    status = Path(f"/proc/{child.pid}/status")
    while True:
        pid, code, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        anonymous = max(anonymous, _anonymous_bytes(status))
        time.sleep(_SAMPLE_SECONDS)
    seconds = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(code)
    if child.returncode:
        sys.exit(f"{' '.join(sys.argv[1:])}: ended with {child.returncode}")
    taken = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        # Linux gives kibibytes, macOS bytes.
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "peak_anonymous_bytes": anonymous or None,
    }
    print(json.dumps(taken))


def _anonymous_bytes(status: Path) -> int:
    """What /proc tells of the memory that belongs to no file; 0 where it tells nothing."""
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
    except OSError:
        return 0
    return int(found.group(1)) * 1024 if found else 0


if __name__ == "__main__":
    main()

"""What `mutmut run` found, file by file, and the mutants that survived it: python -m mutation.score"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

KILLED = ("killed", "timeout", "segfault", "caught by type check")
mutmut = str(Path(sys.executable).with_name("mutmut"))
told = subprocess.check_output([mutmut, "results", "--all", "true"], text=True)
counts: dict[str, Counter[str]] = defaultdict(Counter)
open_ones = []
for name, state in re.findall(r"^\s*(\S+): (.*)$", told, re.M):
    module = name.split(".x", 1)[0]
    counts[module][state] += 1
    if state not in KILLED:
        open_ones.append((name, state))
for name, state in open_ones:
    print(f"{state} {name}")
    diff = subprocess.check_output([mutmut, "show", name], text=True)
    print("".join(f"    {line}\n" for line in diff.splitlines() if re.match(r"[-+](?![-+])", line)), end="")
for module, found in sorted(counts.items()):
    killed, total = sum(found[state] for state in KILLED), sum(found.values())
    print(f"{module:<34} {killed:>4} of {total:<4} {100 * killed / total:5.1f} %")

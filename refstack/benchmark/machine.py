"""The machine under a figure: what it is, what it can do at best, and what it was busy with."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import refstack
from refstack.backends.build import build_report
from refstack.backends.compilers import cpu_features
from refstack.backends.numpy import blas
from refstack.verification.records import code_sha256

Facts = dict[str, Any]
UNTIMED = ("cli", "verification", "train", "doctor.py", "__main__.py")
LIBRARIES = ("numpy", "scipy", "numexpr", "threadpoolctl", "safetensors")


def environment() -> Facts:
    """Everything that makes two figures comparable, and `key`, its hash. Nothing here changes from minute to minute."""
    build = build_report()
    facts: Facts = {
        "host": hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12],
        "cpu": cpu_model(),
        "cpu_features": hashlib.sha256(cpu_features().encode()).hexdigest()[:12],
        "simd": [name for name in ("avx512f", "avx512_vnni", "avx2", "fma", "neon", "asimd") if name in _features()],
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": psutil.cpu_count(),
        "threads_allowed": threads_allowed(),
        "caches_bytes": caches(),
        "memory_bytes": psutil.virtual_memory().total,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "os": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()).strip(),
        "python": platform.python_version(),
        "blas": blas(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "compiler": build["version"] or build["compiler"],
        "compiler_flags": build["flags"],
        "refstack": refstack.__version__,
        "code": code_sha256(UNTIMED),
    }
    text = json.dumps(facts, sort_keys=True)
    return {"key": hashlib.sha256(text.encode()).hexdigest()[:16], **facts}


def load_average() -> list[float]:
    """Running processes over the last 1, 5 and 15 minutes: above 0 before a run, something else is busy."""
    return [round(value, 2) for value in os.getloadavg()]


def threads_allowed() -> int:
    """CPUs this process may use: its affinity mask, cut by a container's quota."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cgroup_cpus()
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def neighbours(process: psutil.Process) -> tuple[int, ...]:
    """Processors of this process on the NUMA node on which another was last seen; all, where Linux does not say."""
    allowed = sorted(os.sched_getaffinity(0))
    nodes = [node.name for node in Path(f"/sys/devices/system/cpu/cpu{process.cpu_num()}").glob("node*")]
    near = [n for n in allowed if any(Path(f"/sys/devices/system/cpu/cpu{n}/{node}").exists() for node in nodes)]
    return tuple(near or allowed)


def _cgroup_cpus() -> float | None:
    """cpu.max of cgroup v2, cfs quota of v1; None without a limit."""
    limit = _read("/sys/fs/cgroup/cpu.max")
    if limit is None:
        quota, period = (_read(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
        limit = f"{quota} {period}" if quota and period else "max"
    words = limit.split()
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit():
        return None
    return int(words[0]) / int(words[1])


def cpu_model() -> str:
    """The name the processor gives itself."""
    text = _read("/proc/cpuinfo") or ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def caches() -> dict[str, int]:
    """Bytes of each data cache that the first core sees: {"L1": .., "L2": .., "L3": ..}."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(folder / name) for name in ("level", "type", "size"))
        if level and size and kind != "Instruction":
            unit = {"K": 1 << 10, "M": 1 << 20}.get(size[-1], 1)
            found[f"L{level}"] = int(size.rstrip("KM")) * unit
    return found


def line(env: Facts, roofs: list[Facts] | None, when: str) -> str:
    """One line below a table: processor, measured limits, compiler, date."""
    parts = [f"{env['cpu']}, {env['threads_allowed']} threads allowed"]
    for roof in roofs or []:
        parts.append(limits(roof))
    return "; ".join([*parts, str(env["compiler"]), f"{env['blas']}, numpy {env['libraries']['numpy']}", when])


def now() -> str:
    """UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def limits(roof: Mapping[str, Any]) -> str:
    """What backends.roofs.measure found, in words."""
    speed = f"{roof['flops'] / 1e9:.0f} GFLOP/s FMA, {roof['read_bytes_per_s'] / 1e9:.1f} GB/s read"
    if "read_bytes" in roof:
        speed += f" ({roof['read_bytes'] / 1e6:.0f} MB)"
    return f"{roof['threads']} thread{'s' * (roof['threads'] > 1)}: {speed}"


def _features() -> set[str]:
    return set(cpu_features().split())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None

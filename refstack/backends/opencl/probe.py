"""A child that lists the devices, or tries one: whatever a runtime does to it, the parent lives.

python -m refstack.backends.opencl.probe            {"devices": [..]}
python -m refstack.backends.opencl.probe 0          {} if device 0 computes right, else {"error": ".."}
"""

from __future__ import annotations

import json
import sys
from typing import Any

SOURCE = """
__kernel void trial(__global const float *x, __global float *y, const float a) {
    __local float shared[4];
    const int i = get_global_id(0);
    shared[get_local_id(0)] = x[i];
    barrier(CLK_LOCAL_MEM_FENCE);
    y[i] = a * shared[3 - get_local_id(0)] + x[i];
}
"""


def every() -> list[Any]:
    """All devices, in the order of their platforms."""
    import pyopencl as cl

    return [device for platform in cl.get_platforms() for device in platform.get_devices()]


def facts(device: Any) -> dict[str, Any]:
    """The fields of devices.Device."""
    import pyopencl as cl

    simulator = "oclgrind" in device.platform.name.lower()
    gpu, cpu = device.type & cl.device_type.GPU, device.type & cl.device_type.CPU
    return {
        "platform": device.platform.name.strip(),
        "name": device.name.strip(),
        "driver": f"{device.version.strip()}, {device.driver_version.strip()}",
        "kind": "other" if simulator else "gpu" if gpu else "cpu" if cpu else "other",
        "compute_units": device.max_compute_units,
        "group": device.max_work_group_size,
        "local_bytes": device.local_mem_size,
        "memory_bytes": device.global_mem_size,
        "alignment": device.mem_base_addr_align // 8,
        "doubles": "cl_khr_fp64" in device.extensions,
    }


def trial(device: Any) -> str:
    """What is wrong with a device, or nothing."""
    import numpy as np
    import pyopencl as cl

    if not device.available or not device.compiler_available:
        return "it is not available, or has no compiler"
    if not device.endian_little:
        return "it is not little-endian"
    context = cl.Context([device])
    queue = cl.CommandQueue(context)
    x = np.arange(8, dtype=np.float32)
    y = np.empty_like(x)
    read = cl.Buffer(context, cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR, hostbuf=x)
    written = cl.Buffer(context, cl.mem_flags.WRITE_ONLY, y.nbytes)
    kernel = cl.Kernel(cl.Program(context, SOURCE).build(["-cl-std=CL1.2"]), "trial")
    kernel(queue, (8,), (4,), read, written, np.float32(2))
    cl.enqueue_copy(queue, y, written)
    queue.finish()
    wanted = 2 * x.reshape(2, 4)[:, ::-1].ravel() + x
    return "" if np.array_equal(y, wanted) else f"a trial kernel gives {y.tolist()}, wanted {wanted.tolist()}"


def main() -> None:
    """Print one line of JSON."""
    try:
        found = every()
        if len(sys.argv) > 1:
            problem = trial(found[int(sys.argv[1])])
            reply: dict[str, Any] = {"error": problem} if problem else {}
        else:
            reply = {"devices": [facts(device) for device in found]}
    except Exception as error:  # a runtime may raise anything; the parent is told
        reply = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()

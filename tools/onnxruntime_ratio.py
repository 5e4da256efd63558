"""How far is refstack's dense float32 from ONNX Runtime on this machine? One interleaved run, outputs compared.

    python tools/onnxruntime_ratio.py [--threads 1] [--rounds 60] [MODEL ...]       needs: pip install onnx onnxruntime

The graph that both run is the same: batch-norm folded, ReLU fused into refstack's layers and written as Relu nodes for
ONNX. Each round times one call of either, in turn; the ratio is the median over rounds of refstack / ONNX Runtime.
"""

import argparse
import statistics
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import refstack as rs
from refstack import ops
from refstack.models import MODELS
from refstack.passes import prepare

PAUSE_S = 0.03  # threads of either runtime go on spinning after a call; until they stop they hold the other's cores


def to_onnx(graph: rs.Graph) -> onnx.ModelProto:
    """The prepared dense graph as ONNX, opset 17."""
    nodes, constants = [], []

    def constant(name: str, array: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    shapes = graph.shapes()
    for node in graph:
        op, out = node.op, node.name
        activation = getattr(op, "activation", None)
        target = f"{out}:sum" if activation else out
        if isinstance(op, ops.Conv2d):
            c = shapes[node.inputs[0]][1] // op.groups
            weight = constant(f"{out}:w", node.weight.decode().reshape(op.out_channels, c, *op.kernel))
            names = [*node.inputs, weight] + ([constant(f"{out}:b", node.bias)] if node.bias is not None else [])
            attributes = {"strides": op.stride, "pads": op.padding, "dilations": op.dilation, "group": op.groups}
            nodes.append(helper.make_node("Conv", names, [target], **attributes))
        elif isinstance(op, ops.Linear):
            names = [*node.inputs, constant(f"{out}:w", node.weight.decode()), constant(f"{out}:b", node.bias)]
            nodes.append(helper.make_node("Gemm", names, [target], transB=1))
        elif isinstance(op, ops.MaxPool2d):
            window = {"kernel_shape": op.kernel, "strides": op.stride, "pads": op.padding}
            nodes.append(helper.make_node("MaxPool", node.inputs, [target], **window))
        else:
            kinds = {ops.GlobalAvgPool: "GlobalAveragePool", ops.Flatten: "Flatten", ops.Add: "Add"}
            nodes.append(helper.make_node(kinds[type(op)], node.inputs, [target]))
        if activation:
            assert activation == "relu"
            nodes.append(helper.make_node("Relu", [target], [out]))
    x = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *graph.input_shape])
    y = helper.make_tensor_value_info(graph.output, TensorProto.FLOAT, list(shapes[graph.output]))
    model = helper.make_graph(nodes, graph.name, [x], [y], constants)
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def compare(name: str, threads: int, rounds: int) -> str:
    """One line: medians, ratio, largest difference of the logits."""
    graph = prepare(rs.load(name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(to_onnx(graph).SerializeToString(), options, ["CPUExecutionProvider"])
    plan = rs.plan(graph, backends=("openmp",), threads=threads)
    x = np.random.default_rng(0).standard_normal((1, *graph.input_shape)).astype(np.float32)
    verdict = rs.check_plan(plan, x)
    assert verdict.passed, verdict.problem
    difference = float(np.abs(session.run(None, {"input": x})[0] - plan.run(x)).max())
    assert difference < 1e-3 * verdict.logit_scale, f"{name}: the two disagree by {difference}"
    calls = {"refstack": lambda: plan.run(x), "onnxruntime": lambda: session.run(None, {"input": x})}
    times: dict[str, list[float]] = {label: [] for label in calls}
    for _ in range(rounds):
        for label, call in calls.items():
            time.sleep(PAUSE_S)
            call()  # untimed: the first call after the other runtime finds cold caches in either case
            start = time.perf_counter_ns()
            call()
            times[label].append((time.perf_counter_ns() - start) / 1e6)
    ratio = statistics.median(a / b for a, b in zip(times["refstack"], times["onnxruntime"], strict=True))
    ours, theirs = (statistics.median(times[label]) for label in times)
    figures = f"refstack {ours:6.2f} ms  onnxruntime {theirs:6.2f} ms  ratio {ratio:.2f}"
    return f"{name:<10} {threads} threads  {figures}  (logits differ by {difference:.1e})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    for model in options.models:
        print(compare(model, options.threads, options.rounds), flush=True)

"""A second opinion: ONNX's own test cases (its node tests, and those recorded from PyTorch) on every row.

Both sides are float32 evaluations, so each is held to the float64 reference's bound. Where ONNX's answer stays inside,
refstack and the standard mean the same by padding, dilation, groups, rounding of sizes, axes and zero points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_cases
import pytest
from calls import ROWS, case, run, takes
from onnx_cases import Translated, Untranslatable, translate

from refstack import ops
from refstack.compare import check
from refstack.contract import bound
from refstack.formats import Csr, Dense, Ternary
from refstack.graph import Node

TAKEN = {
    "avgpool": """
        AvgPool2d AvgPool2d_stride averagepool_1d_default averagepool_2d_ceil averagepool_2d_default
        averagepool_2d_dilations averagepool_2d_pads averagepool_2d_pads_count_include_pad
        averagepool_2d_precomputed_pads averagepool_2d_precomputed_pads_count_include_pad
        averagepool_2d_precomputed_same_upper averagepool_2d_precomputed_strides averagepool_2d_same_lower
        averagepool_2d_same_upper averagepool_2d_strides
    """,
    "batchnorm": """
        BatchNorm1d_3d_input_eval BatchNorm2d_eval BatchNorm2d_momentum_eval BatchNorm3d_eval
        BatchNorm3d_momentum_eval batchnorm_epsilon batchnorm_example
    """,
    "conv2d": """
        Conv1d Conv1d_dilated Conv1d_groups Conv1d_pad1 Conv1d_pad1size1 Conv1d_pad2 Conv1d_pad2size1
        Conv1d_stride Conv2d Conv2d_depthwise Conv2d_depthwise_padded Conv2d_depthwise_strided
        Conv2d_depthwise_with_multiplier Conv2d_dilated Conv2d_groups Conv2d_groups_thnn Conv2d_no_bias
        Conv2d_padding Conv2d_strided basic_conv_with_padding basic_conv_without_padding
        conv_with_autopad_same conv_with_strides_and_asymmetric_padding conv_with_strides_no_padding
        conv_with_strides_padding convinteger_with_padding convinteger_without_padding operator_conv
    """,
    "linear": """
        Linear gemm_all_attributes gemm_alpha gemm_beta gemm_default_no_bias gemm_default_scalar_bias
        gemm_default_single_elem_vector_bias gemm_default_vector_bias gemm_default_zero_bias gemm_transposeA
        gemm_transposeB matmul_2d matmulinteger operator_mm
    """,
    "maxpool": """
        MaxPool1d MaxPool1d_stride MaxPool1d_stride_padding_dilation MaxPool2d
        MaxPool2d_stride_padding_dilation globalmaxpool globalmaxpool_precomputed maxpool_1d_default
        maxpool_2d_ceil maxpool_2d_ceil_output_size_reduce_by_one maxpool_2d_default maxpool_2d_dilations
        maxpool_2d_pads maxpool_2d_precomputed_pads maxpool_2d_precomputed_same_upper
        maxpool_2d_precomputed_strides maxpool_2d_same_lower maxpool_2d_same_upper maxpool_2d_strides
        maxpool_2d_uint8 maxpool_with_argmax_2d_precomputed_pads maxpool_with_argmax_2d_precomputed_strides
        operator_maxpool
    """,
    "relu": """
        ReLU clip_default_min relu
    """,
    "softmax": """
        Softmax softmax_axis_0 softmax_axis_1 softmax_axis_2 softmax_default_axis softmax_example
        softmax_functional_dim3 softmax_large_number softmax_lastdim softmax_negative_axis
    """,
    "add": """
        add sum_two_inputs
    """,
    "concat": """
        concat_1d_axis_0 concat_1d_axis_negative_1 concat_2d_axis_0 concat_2d_axis_1 concat_2d_axis_negative_1
        concat_2d_axis_negative_2 concat_3d_axis_0 concat_3d_axis_1 concat_3d_axis_2 concat_3d_axis_negative_1
        concat_3d_axis_negative_2 concat_3d_axis_negative_3 operator_concat2
    """,
    "flatten": """
        flatten_axis0 flatten_axis1 flatten_axis2 flatten_axis3 flatten_default_axis flatten_negative_axis1
        flatten_negative_axis2 flatten_negative_axis3 flatten_negative_axis4 operator_flatten operator_view
    """,
    "globalavgpool": """
        globalaveragepool globalaveragepool_precomputed
    """,
    "quantize": """
        quantizelinear
    """,
}
"""Layer -> the cases that it is held to."""

SKIPPED = {
    "3 axes of pixels": """
        AvgPool3d AvgPool3d_stride AvgPool3d_stride1_pad0_gpu_input Conv3d Conv3d_dilated
        Conv3d_dilated_strided Conv3d_groups Conv3d_no_bias Conv3d_stride Conv3d_stride_padding MaxPool3d
        MaxPool3d_stride MaxPool3d_stride_padding averagepool_3d_default
        averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_False
        averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_True
        averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_False
        averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True averagepool_3d_dilations_small
        maxpool_3d_default maxpool_3d_dilations maxpool_3d_dilations_use_ref_impl
        maxpool_3d_dilations_use_ref_impl_large
    """,
    "sum of": """
        add_bcast sum_example sum_one_input
    """,
    r"u?int\d+|float64": """
        add_int16 add_int8 add_uint16 add_uint32 add_uint64 add_uint8 clip_default_int8_inbounds
        clip_default_int8_max clip_default_int8_min operator_add_broadcast operator_add_size1_broadcast
        operator_add_size1_right_broadcast operator_add_size1_singleton_broadcast operator_addconstant
        quantizelinear_int16 quantizelinear_uint16
    """,
    "training": """
        batchnorm_epsilon_training_mode batchnorm_example_training_mode
    """,
    "limits": """
        clip clip_default_inbounds clip_default_max clip_example clip_inbounds clip_min_greater_than_max
        clip_outbounds clip_splitbounds operator_clip
    """,
    "a bias for each image": """
        gemm_default_matrix_bias
    """,
    "a matrix for each image": """
        matmul_1d_1d matmul_1d_3d matmul_3d matmul_4d matmul_4d_1d matmul_bcast qlinearmatmul_3D_int8_float16
        qlinearmatmul_3D_int8_float32 qlinearmatmul_3D_uint8_float16 qlinearmatmul_3D_uint8_float32
    """,
    "a weight that is more than 127 from its zero point": """
        qlinearconv qlinearmatmul_2D_int8_float16 qlinearmatmul_2D_int8_float32 qlinearmatmul_2D_uint8_float16
        qlinearmatmul_2D_uint8_float32
    """,
    "a scale for each channel": """
        quantizelinear_axis quantizelinear_blocked_asymmetric
    """,
    "numbers that NumPy lacks": """
        quantizelinear_blocked_symmetric quantizelinear_e4m3fn quantizelinear_e5m2 quantizelinear_float4e2m1
        quantizelinear_int2 quantizelinear_int4 quantizelinear_uint2 quantizelinear_uint4
    """,
}
"""What no layer of refstack does -> the cases that need it."""

DIGITS = {"averagepool_2d_ceil_last_window_starts_on_pad": 4}
"""Cases whose numbers somebody typed, with so many digits behind the point."""

NAMES = [name for names in TAKEN.values() for name in names.split()]


def translated(name: str) -> Translated:
    """The case of this name as a layer."""
    return translate(onnx_cases.cases()[f"test_{name}"])


def formats(node: Node) -> list[Node]:
    """The node with its weight in every float format that can hold it."""
    if not isinstance(node.op, ops.Conv2d | ops.Linear) or not isinstance(node.weight, Dense):
        return [node]
    matrix = node.weight.decode()
    found = [node, replace(node, weight=Csr.encode(matrix))]
    if len(np.unique(matrix[matrix > 0])) <= 1 and len(np.unique(matrix[matrix < 0])) <= 1:
        found.append(replace(node, weight=Ternary.encode(matrix)))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_case(name: str) -> None:
    """ONNX's answer and that of every row that takes the case are what the contract allows."""
    theirs, backends = translated(name), set()
    for node in formats(theirs.node):
        allowed = bound(node, theirs.inputs)
        said = check(node, theirs.inputs, theirs.wanted, "onnx", name, allowed)
        assert said.passed, str(said)
        able = [row for row in ROWS if takes(row, case(node, theirs.inputs))]
        for row in able:
            found = check(node, theirs.inputs, run(row, node, *theirs.inputs), row.name, name, allowed)
            assert found.passed, str(found)
        backends |= {row.backend for row in able}
    assert {row.backend for row in ROWS} - {"blas", "opencl"} <= backends  # these lack some layers


@pytest.mark.parametrize("name", DIGITS)
def test_typed_case(name: str) -> None:
    """Inputs and answer are off by half a digit each, and a mean is off by no more than its inputs."""
    theirs, digit = translated(name), 10.0 ** -DIGITS[name]
    for row in (row for row in ROWS if row.op == theirs.node.op.name and row.format == "float32"):
        assert np.abs(run(row, theirs.node, *theirs.inputs) - theirs.wanted).max() <= digit, row.name


@pytest.mark.parametrize(("reason", "names"), SKIPPED.items(), ids=lambda value: value if value in SKIPPED else "")
def test_skipped_cases(reason: str, names: str) -> None:
    """A case is left out for the reason that is written down (older versions of onnx lack some)."""
    existing = [name for name in names.split() if f"test_{name}" in onnx_cases.cases()]
    assert existing
    for name in existing:
        with pytest.raises(Untranslatable, match=reason):
            translated(name)


def test_the_lists_are_whole() -> None:
    """All cases named exist, every layer has some, and cases that a newer ONNX adds are named by a skip."""
    listed = [*NAMES, *DIGITS, *(name for names in SKIPPED.values() for name in names.split())]
    assert len(set(listed)) == len(listed)
    existing = {name.removeprefix("test_") for name in onnx_cases.cases()}
    assert not {*NAMES, *DIGITS} - existing, "ONNX lacks these cases"
    assert set(TAKEN) == set(ops.OPS)
    assert all(names.split() for names in TAKEN.values())
    unknown = sorted(existing - set(listed))
    if unknown:
        pytest.skip(f"this version of onnx has cases that no list names: {', '.join(unknown)}")


def with_op(**changes: Any) -> Callable[[Translated], Translated]:
    """The case for a layer that reads an attribute wrongly."""
    return lambda each: replace(each, node=replace(each.node, op=replace(each.node.op, **changes)))


def swapped_axes(each: Translated) -> Translated:
    top, left, bottom, right = each.node.op.padding  # type: ignore[attr-defined]
    return with_op(padding=(left, top, right, bottom))(each)


def swapped_sides(each: Translated) -> Translated:
    top, left, bottom, right = each.node.op.padding  # type: ignore[attr-defined]
    return with_op(padding=(bottom, right, top, left))(each)


def padded_with_zero(each: Translated) -> Translated:
    """int8 padding is the zero point."""
    top, left, bottom, right = each.node.op.padding  # type: ignore[attr-defined]
    x = np.pad(each.inputs[0], ((0, 0), (0, 0), (top, bottom), (left, right)))
    return replace(with_op(padding=(0, 0, 0, 0))(each), inputs=(x,))


def deviation_not_variance(each: Translated) -> Translated:
    return replace(each, node=replace(each.node, var=each.node.var**2))  # type: ignore[operator]


def transposed(each: Translated) -> Translated:
    weight = Dense.encode(each.node.weight.values.T.reshape(each.node.weight.shape))  # type: ignore[union-attr]
    return replace(each, node=replace(each.node, weight=weight))


FAULTS: list[tuple[str, Callable[[Translated], Translated]]] = [
    ("conv_with_strides_and_asymmetric_padding", swapped_axes),
    ("conv_with_strides_padding", with_op(padding=(0, 1, 2, 1))),
    ("Conv2d_dilated", with_op(dilation=(1, 1), padding=(1, 1, 1, 1))),
    ("Conv2d_depthwise_with_multiplier", transposed),
    ("convinteger_with_padding", padded_with_zero),
    ("averagepool_2d_pads", with_op(count_include_pad=True)),
    ("averagepool_2d_pads_count_include_pad", with_op(count_include_pad=False)),
    ("maxpool_2d_same_lower", swapped_sides),
    ("batchnorm_epsilon", deviation_not_variance),
    ("batchnorm_epsilon", with_op(eps=1e-5)),
    ("gemm_transposeB", transposed),
    ("quantizelinear", with_op(zero_point=1)),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=lambda value: value if isinstance(value, str) else "")
def test_planted_fault_is_caught(name: str, fault: Callable[[Translated], Translated]) -> None:
    """If refstack meant something else, ONNX's answer would lie outside the bound."""
    wrong = fault(translated(name))
    assert not check(wrong.node, wrong.inputs, wrong.wanted).passed

"""A checkpoint whose header or structure was tampered with gets a FormatError that says where, whatever is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import files
import pytest
from files import WANTED, Change, edit, number, pack, refuse, unpack

from refstack import checkpoint, ops
from refstack.errors import RefstackError

saved = files.saved

# Headers


def edit_header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], Path]:
    def apply(path: Path) -> Path:
        header, _, data = unpack(path)
        change(header)
        return pack(path, header, data)

    return apply


def shift(header: dict[str, Any], name: str, by: int) -> None:
    header[name]["data_offsets"] = [each + by for each in header[name]["data_offsets"]]


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "hole": (lambda h: shift(h, "soft" if "soft" in h else last(h), 4), "starts at data byte .* leaves a hole"),
    "overlap": (lambda h: shift(h, last(h), -1), "starts at data byte .* overlaps its neighbour"),
    "reversed": (lambda h: h["a.bias"]["data_offsets"].reverse(), "tensor 'a.bias': -16 bytes stored"),
    "negative offset": (lambda h: shift(h, "a.bias", -(10**6)), "data_offsets .* wanted a list of sizes"),
    "three offsets": (lambda h: h["a.bias"]["data_offsets"].append(1), "1 axes and 3 offsets, wanted at most 8 and 2"),
    "largest": (lambda h: h["a.bias"].update(shape=[1, 2**39]), "16 bytes stored, F32 .1, 549755813888. takes 219"),
    "too large": (lambda h: h["a.bias"].update(shape=[2**40]), "shape .1099511627776. is too large"),
    "huge": (lambda h: h["a.bias"].update(shape=[10**12]), r"16 bytes stored, F32 .10+. takes 40+$"),
    "product overflow": (lambda h: h["a.bias"].update(shape=[2**32, 2**32]), "4294967296, 4294967296. is too large"),
    "2**63": (lambda h: h["a.bias"].update(shape=[2**63]), "shape .* wanted a list of sizes"),
    "overflow hidden by 0": (lambda h: h["a.bias"].update(shape=[2**62, 2**62, 0]), "shape .* is too large"),
    "bool": (lambda h: h["a.bias"].update(shape=[True, 4]), "shape .* wanted a list of sizes"),
    "float": (lambda h: h["a.bias"].update(shape=[4.0]), "shape .* wanted a list of sizes"),
    "string": (lambda h: h["a.bias"].update(shape="4"), "shape .* wanted a list of sizes"),
    "10**4 axes": (lambda h: h["a.bias"].update(shape=[1] * 10**4 + [4]), "10001 axes and 2 offsets"),
    "nine axes": (lambda h: h["a.bias"].update(shape=[1] * 8 + [4]), "9 axes and 2 offsets, wanted at most 8 and 2"),
    "eight axes": (lambda h: h["a.bias"].update(shape=[1] * 7 + [4]), "bias is float32 .*, wanted float32 .4,."),
    "dtype": (lambda h: h["a.bias"].update(dtype="BF16"), "dtype 'BF16', wanted one of F64, F32"),
    "dtype list": (lambda h: h["a.bias"].update(dtype=["F32"]), r"dtype \['F32'\], wanted one of"),
    "other dtype": (lambda h: h["a.bias"].update(dtype="I32"), "bias is int32 .*, wanted float32"),
    "axes": (lambda h: h["a.bias"].update(shape=[2, 2]), r"bias is float32 \(2, 2\), wanted float32 \(4,\)"),
    "scalar": (lambda h: (h["fc.weight"].update(shape=[6]),), "dense.values: got float32 with 1 axes"),
    "half batchnorm": (lambda h: h["bn.weight"].update(dtype="F16", shape=[4, 2]), "dense.values: got float16 with 2"),
    "extra field": (lambda h: h["a.bias"].update(x=1), "tensor 'a.bias': has .* wanted exactly the keys"),
    "missing field": (lambda h: h["a.bias"].pop("shape"), "tensor 'a.bias': has .* wanted exactly the keys"),
    "no object": (lambda h: h.update({"a.bias": 3}), "tensor 'a.bias': has int, wanted exactly the keys"),
    "renamed": (lambda h: h.update({"b.other": h.pop("b.bias")}), "tensor 'b.other' belongs to no node .1 such"),
    "missing array": (lambda h: h.update({"x": h.pop("b.weight.indices")}), "tensor 'b.weight.indices' is missing"),
    "metadata list": (lambda h: h.update(__metadata__=[]), "metadata key 'refstack' .* is missing"),
}  # fmt: skip


def last(header: dict[str, Any]) -> str:
    return max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])


@pytest.mark.parametrize("case", HEADERS)
def test_bad_headers(case: str, saved: Path) -> None:
    change, match = HEADERS[case]
    refuse(edit_header(change)(saved), match, RefstackError)


def test_bad_header_texts(saved: Path) -> None:
    header, _, data = unpack(saved)
    text = json.dumps(header)
    entry = json.dumps(header["a.bias"])

    def refused(changed: bytes, match: str, length: int | None = None) -> None:
        refuse(pack(saved, changed, data, length), match)

    refused(
        text.replace('"a.bias":', f'"a.bias": {entry}, "a.bias":').encode(),
        "header at byte 8: 'a.bias' stands there twice",
    )
    refused(text.replace('"dtype"', '"dtype": "F32", "dtype"', 1).encode(), "'dtype' stands there twice")
    at = text.index("bn") + 9
    refused(text.replace("bn", "b\xff").encode("latin-1"), f"header at byte 8: not UTF-8 at byte {at}; {WANTED}$")
    refused(text[:-1].encode(), f"header at byte 8: not JSON at character {len(text) - 1}: Expecting .*; {WANTED}$")
    refused((text + "x").encode(), "not JSON at character")
    refused(text.replace("[4]", "[NaN]", 1).encode(), "NaN is not JSON")
    refused(text.replace("[4]", "[1e400]", 1).encode(), "the number 1e400 is too large")
    refused(text.replace("[4]", f"[{'9' * 5000}]", 1).encode(), "not readable JSON: Exceeds the limit")
    refused(b'{"a":' * 100_000, "not readable JSON: maximum recursion depth")
    refused(b" " + text.encode(), "no header at byte 8")
    refused(b"[1]", "no header at byte 8")
    refused(b"{}", f"trailing bytes: the tensors take 0 bytes, {len(data)} follow the header; copy the file again$")
    refused(text.encode(), "header of 9223372036854775808 bytes", 2**63)
    size = 8 + len(text) + len(data)
    told = f"a file of {size} .at most 16777216 are read.: truncated or not a checkpoint; {WANTED}$"
    refused(text.encode(), f"^{saved}: byte 0: header of 1 bytes in {told}", 1)
    refused(text.encode(), f"^{saved}: byte 0: header of {size - 7} bytes in {told}", size - 7)
    refused(text.encode(), "header at byte 8: not UTF-8 at byte", size - 8)  # all of the file, data too
    refused(b"{" + b" " * (16 << 20) + b"}", r"header of 16777218 bytes .at most|header of 16777218 bytes")
    pack(saved, text.encode().ljust(16 << 20), data)
    checkpoint.load(saved)  # the longest header that is read
    many = ",".join(f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(100_002))
    refused(f"{{{many}}}".encode(), "wanted an object of at most 100000 tensors")


# Structures


BIG = 2**31


def attribute(node: str, **values: Any) -> Change:
    return lambda s, n: n[node]["attributes"].update(values)


STRUCTURES: dict[str, tuple[Change, str]] = {
    "version": (lambda s, n: s.update(version=2), "version 2, wanted 1; update refstack"),
    "version true": (lambda s, n: s.update(version=True), "version True, wanted 1"),
    "no name": (lambda s, n: s.pop("name"), "metadata: has .* wanted exactly the keys"),
    "extra key": (lambda s, n: s.update(code="x"), "metadata: has .* wanted exactly the keys"),
    "name": (lambda s, n: s.update(name="\x1b[31m"), "metadata: name '.x1b.31m', wanted 1 to 200 printable characters"),
    "name empty": (lambda s, n: s.update(name=""), "metadata: name '', wanted 1 to 200 printable characters"),
    "name number": (lambda s, n: s.update(name=5), "metadata: name 5, wanted 1 to 200 printable characters"),
    "node name": (lambda s, n: n["a"].update(name=""), "node 0: name '', wanted 1 to 200 printable characters"),
    "input name": (lambda s, n: n["b"].update(inputs=[5]), "node 'b': name 5, wanted 1 to 200 printable characters"),
    "no nodes": (lambda s, n: s.update(nodes=[]), "nodes must be a list of 1 to 10000"),
    "many nodes": (lambda s, n: s.update(nodes=s["nodes"] * 1000), "nodes must be a list of 1 to 10000"),
    "nodes object": (lambda s, n: s.update(nodes={}), "nodes must be a list"),
    "node number": (lambda s, n: s["nodes"].append(1), "node 18: has int, wanted exactly the keys"),
    "input shape": (lambda s, n: s.update(input_shape=[2, 4, 0]), "room|does not fit|wanted 1 to"),
    "input negative": (lambda s, n: s.update(input_shape=[2, -4, 4]), "every.a: window of 3"),
    "input huge": (lambda s, n: s.update(input_shape=[2, BIG, 4]), "input_shape: got 2147483648, wanted int"),
    "input rank": (lambda s, n: s.update(input_shape=[2, 4]), r"every.a: conv2d: input has shape \(1, 2, 4\)"),
    "input empty": (lambda s, n: s.update(input_shape=[]), "input_shape .* must be a list of 1 to 8 sizes"),
    "activations beyond int32": (lambda s, n: s.update(input_shape=[2, 2**15, 2**15]), "wanted 1 to 2147483647 values"),
    "meta": (lambda s, n: s.update(meta=[]), "meta must be a list of 1 to 8 sizes and an object"),
    "op": (lambda s, n: n["a"].update(op="conv3d"), f"'a': unknown op 'conv3d', wanted one of {', '.join(ops.OPS)}"),
    "op list": (lambda s, n: n["a"].update(op=[]), "node 'a': unknown op"),
    "op without weight": (lambda s, n: n["a"].update(op="relu"), "node 'a': has .* wanted exactly the keys"),
    "attribute": (attribute("a", device="cuda"), "node 'a': has .* wanted exactly the keys"),
    "attribute gone": (lambda s, n: n["a"]["attributes"].pop("groups"), "node 'a': has .* wanted exactly the keys"),
    "stride 0": (attribute("a", stride=[0, 1]), "node 'a': conv2d: stride is .0, 1., every value must be at"),
    "dilation 0": (attribute("a", dilation=[1, 0]), "dilation is .* at least 1"),
    "kernel 0": (attribute("a", kernel=[0, 3]), "kernel is .* at least 1"),
    "padding -1": (attribute("a", padding=[-1, 0, 0, 0]), "padding is .* at least 0"),
    **{
        f"{what} large": (attribute("mean", **{what: [4097] * size}), "'mean': kernel, .* may be 4096 at most, got Avg")
        for what, size in (("kernel", 2), ("stride", 2), ("padding", 4), ("dilation", 2))
    },
    "padding huge": (attribute("mean", padding=[BIG] * 4), "padding: got 2147483648, wanted int"),
    "three strides": (attribute("a", stride=[1, 1, 1]), "node 'a': stride: got .1, 1, 1., wanted tuple.int, int."),
    "stride float": (attribute("a", stride=[1.0, 1]), "'a': stride: got 1.0, wanted int within 2147483647"),
    "stride bool": (attribute("a", stride=[True, 1]), "node 'a': stride: got True, wanted int"),
    "groups 0": (attribute("a", groups=0), "groups=0 must divide c=2 and k=4"),
    "groups": (attribute("a", groups=4), "groups=4 must divide c=2 and k=4"),
    "kernel too large": (attribute("a", kernel=[9, 9]), "window of 9 .* does not fit into 4 pixels"),
    "no channels": (attribute("a", out_channels=0), "every.a: conv2d: out_channels is 0, must be at least 1"),
    "activation": (attribute("a", activation="gelu"), "node 'a': activation: got 'gelu', wanted .*'relu', 'relu6'"),
    "eps": (attribute("bn", eps=0), "eps"),
    "eps word": (attribute("bn", eps="1"), "node 'bn': eps: got '1', wanted finite float"),
    "eps beyond float": (attribute("bn", eps=10**400), "node 'bn': eps: got 10+, wanted finite float"),
    "scale beyond": (attribute("q", scale=sys.float_info.max), "node 'd': conv2d reads"),
    "eps negative": (attribute("bn", eps=-1.0), "eps"),
    "scale": (attribute("q", scale=0.0), "node 'q': quantize: scale 0.0 must be positive"),
    "zero point": (attribute("q", zero_point=128), "zero point 128"),
    "include": (attribute("mean", count_include_pad=1), "count_include_pad: got 1, wanted bool"),
    "inputs": (lambda s, n: n["b"].update(inputs="relu"), "node 'b': inputs must be a list of at most 10000 node n"),
    "unknown input": (lambda s, n: n["b"].update(inputs=["nil"]), "every.b: conv2d reads .'nil',.; wanted 1 nodes"),
    "cycle": (lambda s, n: n["b"].update(inputs=["c"]), "every.b: conv2d reads .'c',.; wanted 1 nodes that stand"),
    "no inputs": (lambda s, n: n["cat"].update(inputs=[]), "every.cat: concat reads"),
    "twice": (lambda s, n: n["relu"].update(name="bn"), "the name is used twice|belongs to no node"),
    "called input": (lambda s, n: n["relu"].update(name="input"), "the name is used twice"),
    "weight gone": (lambda s, n: n["fc"].pop("weight"), "tensor 'fc.weight' belongs to no node"),
    "weight on relu": (lambda s, n: n["relu"].update(weight={"format": "dense"}), "tensor 'relu.weight' is missing"),
    "format": (number("b", format="coo"), "node 'b': weight: unknown format 'coo', wanted one of dense, csr"),
    "format list": (number("b", format=[]), "unknown format"),
    "format swap": (number("b", format="ternary"), "tensor 'b.weight.codes' is missing"),
    "weight word": (lambda s, n: n["b"].update(weight="csr"), "unknown format 'csr'"),
    "weight key": (number("b", values=1), "node 'b': weight: has .* wanted exactly the keys"),
    "cols": (number("b", cols=35), "csr.indices: column 35 at entry|weight is .4, 35., conv2d wants .4, 36."),
    "cols many": (number("b", cols=37), "weight is .4, 37., conv2d wants .4, 36."),
    "cols negative": (number("b", cols=-1), "csr.indices: column"),
    "height": (number("s", height=9), "bsr.indptr: 2 rows of blocks for 9 rows and 36 columns, wanted one for every 4"),
    "height small": (number("s", height=5), "bsr.values: a block holds numbers beyond the matrix .5, 36."),
    "height negative": (number("s", height=-5), "bsr.indptr: 2 rows of blocks for -5 rows"),
    "cols bsr": (number("s", cols=31), "bsr.indices: column 31 at entry 6, wanted 0 to 30"),
    "cols ternary": (number("c", cols=5), "ternary: 2 scales and 1 bytes a row, wanted 2 scales and 2 bytes"),
    "tail codes": (number("c", cols=3), "unused codes|weight is .4, 3."),
    "grid": (number("d", input=None), "node 'd': weight: input: has NoneType, wanted exactly the keys"),
    "grid scale": (number("e", input={"scale": -1.0, "zero_point": 0}), "int8.input: .*-1.0.* needs a positive scale"),
    "grid tiny": (number("e", input={"scale": 1e-320, "zero_point": -3}), "input.scale 1e-320 . scale .* no float32"),
    "grid huge": (number("e", input={"scale": 1e300, "zero_point": -3}), "input.scale 1e.300 . scale .* no float32"),
    "fine output": (number("d", output={"scale": 1e-30, "zero_point": 0}), "int8: output scale is 2..30 times finer"),
    "finest output": (number("d", output={"scale": 1e-320, "zero_point": 0}), "output scale is 2..30 times finer"),
    "other grid": (number("d", input={"scale": 0.25, "zero_point": -3}), "node 'd': conv2d reads .* wanted Quant"),
    "other output": (number("d", output={"scale": 0.5, "zero_point": 0}), "node 'e': conv2d reads"),
    "float to int8": (lambda s, n: n["d"].update(inputs=["mean"]), "node 'd': conv2d reads .None., wanted Quant"),
    "int8 to float": (number("e", output={"scale": 1.0, "zero_point": 0}), "globalavgpool reads .Quant.* wanted None"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "least", "match"),
    [
        ("checkpoint.MAX_NODES", 18, "metadata: nodes must be a list of 1 to 17"),
        ("checkpoint.MAX_AXES", 3, "must be a list of 1 to 2 sizes"),
        ("checkpoint.MAX_WINDOW", 3, "node 'a': kernel, stride, padding and dilation may be 2 at most"),
        ("container.MAX_TENSORS", 26, "header at byte 8: wanted an object of at most 25 tensors"),
    ],
)
def test_what_stands_at_a_limit_is_read(
    limit: str, least: int, match: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"refstack.{limit}", least)
    checkpoint.load(saved)
    monkeypatch.setattr(f"refstack.{limit}", least - 1)
    refuse(saved, match)


@pytest.mark.parametrize("case", STRUCTURES)
def test_bad_structures(case: str, saved: Path) -> None:
    change, match = STRUCTURES[case]
    refuse(edit(saved, change), match, RefstackError)


def test_structure_texts(saved: Path) -> None:
    header, structure, data = unpack(saved)
    text = json.dumps(structure)
    for changed, match in (
        ("", f"^{saved}: metadata 'refstack': not JSON at character 0: Expecting value; {WANTED}$"),
        ("[]", "metadata: has list, wanted exactly the keys"),
        (text.replace('"version"', '"version": 1, "version"'), "'version' stands there twice"),
        (text.replace("0.001", "Infinity"), "Infinity is not JSON"),
        (text.replace("0.001", "1e999"), "the number 1e999 is too large"),
        ("[" * 10**5, "recursion"),
    ):
        header["__metadata__"]["refstack"] = changed
        refuse(pack(saved, header, data), match)

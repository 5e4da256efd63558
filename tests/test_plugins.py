"""Kernels from outside: the page's own example, and wrong ones of every kind, each with the verdict it deserves."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from refstack.backends import compilers, openmp, plugin
from refstack.cli import app
from refstack.errors import UsageError
from refstack.verification import Verdict, examiner, verify

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text("utf-8")
TOML, C, DIFF = (re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1] for language in ("toml", "c", "diff"))
START = "void my_conv2d(const rs_args *a) {\n"


def written(folder: Path, code: str = C, manifest: str = TOML) -> Path:
    """The two files of a plug-in; the manifest's path."""
    (folder / "mine.c").write_text(code)
    (folder / "mine.toml").write_text(manifest)
    return folder / "mine.toml"


def judged(path: Path) -> Verdict:
    (found,) = verify(plugins=[path])
    return found


def with_wrong_padding() -> str:
    old, new = (re.search(rf"^\{sign}(.*\n)", DIFF, re.MULTILINE)[1] for sign in "-+")
    assert C.count(old) == 1, "the page's diff applies to the page's code"
    return C.replace(old, new)


def test_the_pages_example_passes(tmp_path: Path) -> None:
    found = judged(written(tmp_path))
    assert (found.kernel, found.state, found.reason) == ("conv2d.dense.plugin.mine", "PASS", "")
    assert found.cases == 36
    (longer,) = verify(plugins=[tmp_path / "mine.toml"], examples=120)
    assert longer.rms > 0.5, "few of its problems are large enough to take the error's mean"


def test_the_pages_wrong_example_fails_as_the_page_says(tmp_path: Path) -> None:
    path = written(tmp_path, with_wrong_padding())
    found = judged(path)
    assert found.state == "FAIL"
    printed = re.search(r"--case (\S+) --seed (\d+)", PAGE)
    assert printed
    (again,) = verify(plugins=[path], case=printed[1], seed=int(printed[2]))
    assert again.state == "FAIL"
    assert again.reason in PAGE


WRONG = {
    "writes past its end": ("CRASH", "bytes beside output were written to", C.replace("y[((n", "y[1 + ((n")),
    "reads past the end": ("CRASH", "SIGSEGV", C.replace("j >= a->w", "j > a->w").replace("i >= a->h", "i > a->h")),
    "writes nothing": ("FAIL", "got nan", f'#include "rs.h"\n{START}(void)a;\n}}\n'),
    "is right for one shape only": ("FAIL", "got nan", C.replace(START, START + "    if (a->q != 8) return;\n")),
    "adds a little": ("FAIL", "9.99", C.replace("acc = a->bias[k]", "acc = a->bias[k] + 1e-5f")),
    "changes the rounding": (
        "FAIL", "no longer rounds to nearest",
        C.replace(START, "#include <fenv.h>\n" + START + "    fesetround(FE_UPWARD);\n"),
    ),
    "exits": ("CRASH", "exit status 7", C.replace(START, "#include <stdlib.h>\n" + START + "    _Exit(7);\n")),
    "remembers by address": (
        "FAIL", "error",
        C.replace(
            START,
            "static const void *seen;\nstatic float kept[1 << 16];\n" + START
            + "    const int64_t size = a->n * a->k * a->p * a->q;\n"
            "    if (a->x[0] == seen) { memcpy(a->y, kept, 4 * size); return; }\n",
        ).removesuffix("}\n")
        + "#pragma omp single\n    if (size <= 1 << 16) { memcpy(kept, y, 4 * size); seen = a->x[0]; }\n}\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("state", "reason", "code"), WRONG.values(), ids=WRONG)
def test_wrong_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, reason: str, code: str) -> None:
    monkeypatch.setattr("refstack.verification.verdicts.SHRINK_S", 0.5)
    assert code != C
    found = judged(written(tmp_path, code))
    assert (found.state, reason in found.reason) == (state, True), found
    assert found.case


def test_one_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examiner, "DEADLINE_S", 3.0)
    monkeypatch.setattr(examiner.Examiner.__init__, "__defaults__", ((1,), (), 3.0))
    code = C.replace(START, START + "    while (*(const volatile int64_t *)&a->n) continue;\n")
    found = judged(written(tmp_path, code))
    assert (found.state, found.reason) == ("TIMEOUT", "no answer within 3 s")


def test_fast_math(tmp_path: Path) -> None:
    """As source the flag is refused; as a library the harness sees what loading it did."""
    path = written(tmp_path, manifest=TOML.replace('"mine.c"', '"mine.c"\nflags = ["-ffast-math"]'))
    found = judged(path)
    assert found.state == "FAIL"
    assert "compiler flag -ffast-math is refused" in found.reason
    compiler = compilers.compiler()
    if compiler.kind != "gcc":
        pytest.skip("only gcc's -ffast-math changes the mode of a process that loads the library")
    include = f"-I{openmp.sources()}"
    command = [compiler.path, "-O2", "-ffast-math", "-fopenmp", "-shared", "-fPIC", include, "mine.c", "-o", "mine.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = judged(written(tmp_path, manifest=TOML.replace('source = "mine.c"', 'library = "mine.so"')))
    assert found.state == "FAIL"
    assert "subnormal numbers are flushed to zero since the kernel was loaded" in found.reason


def test_one_that_does_not_compile(tmp_path: Path) -> None:
    found = judged(written(tmp_path, "int my_conv2d(void) { return undeclared; }"))
    assert found.state == "FAIL"
    assert "undeclared" in found.reason


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("kernel = ", "is no TOML"),
        (TOML.replace("symbol", "symbols"), "symbols is not known, wanted some of kernel, source"),
        (TOML.replace('symbol = "my_conv2d"', ""), "symbol is missing"),
        (TOML.replace("source", "# source"), "wanted either source"),
        (TOML.replace('"mine.c"', '"other.c"'), "other.c is not there"),
        (TOML.replace("conv2d.dense.mine", "conv2d.mine"), "kernel is 'conv2d.mine', wanted op.format.variant"),
        (TOML.replace("conv2d.dense.mine", "relu.dense.mine"), "formats of relu are float32, int8"),
        (TOML.replace("conv2d.dense.mine", "conv2d.dense.m*"), "wanted op.format.variant"),
        (TOML.replace("stride = 1", "stride = true"), "needs.stride is True, wanted a int"),
        (TOML.replace('"one"', '"two"'), "needs.groups is 'two', wanted one or depthwise"),
        (TOML.replace("stride", "strides"), "needs.strides is not known"),
    ],
)
def test_bad_manifests(tmp_path: Path, manifest: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        plugin.kernel(written(tmp_path, manifest=manifest))


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        plugin.kernel(tmp_path / "none.toml")


def test_needs_are_reasons(tmp_path: Path) -> None:
    more = 'padding = 1\nbatch = 2\nactivation = ["relu"]\n'
    row = plugin.kernel(written(tmp_path, manifest=TOML + more))
    from refstack.kernels import parse_case

    def refusal(word: str) -> str | None:
        return row.refusal(parse_case(f"conv2d.dense:{word}"))

    assert refusal("n2c3h8w8_k4r3s3_st1pd1g1_relu") is None
    assert refusal("n2c3h8w8_k3r3s3_st1pd1g3") == "groups is 3, this kernel needs 1"
    assert refusal("n2c3h8w8_k4r1s1_st1pd1g1") == "kernel is (1, 1), this kernel needs (3, 3)"
    assert refusal("n2c3h8w8_k4r3s3_st2pd1g1") == "stride is 2, this kernel needs at most 1"
    assert refusal("n2c3h8w8_k4r3s3_st1pd2g1") == "padding is 2, this kernel needs at most 1"
    assert refusal("n3c3h8w8_k4r3s3_st1pd1g1") == "the batch is 3, at most 2"
    assert refusal("n2c3h8w8_k4r3s3_st1pd1g1_relu6") == "activation is relu6, this kernel needs None or relu"


def test_from_the_command_line(tmp_path: Path) -> None:
    path = written(tmp_path, C.replace("acc = a->bias[k]", "acc = 0"))
    done = CliRunner().invoke(app, ["verify", "--plugin", str(path), "--threads", "1,2", "-f", "json"])
    (found,) = json.loads(done.stdout)
    assert (done.exit_code, found["state"]) == (1, "FAIL")
    command = re.search(r"to see it again: refstack (.*)", done.stderr)[1].replace("'", "").split()
    again = CliRunner().invoke(app, [*command, "-f", "json"])
    assert (again.exit_code, json.loads(again.stdout)[0]["case"]) == (1, found["case"])

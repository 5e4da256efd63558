"""Compilers that are missing, strange, hang or fail, their flags, and the processor that they compile for."""

from __future__ import annotations

import os
import platform
import stat
import subprocess
from pathlib import Path

import building
import pytest
from building import entries, failing, fresh, wait_for, wrapper, write

from refstack.backends import build, compilers
from refstack.errors import BackendUnavailable, CompileError, UsageError

pytestmark, cache, answer = building.pytestmark, building.cache, building.answer


def test_compiler_flags_and_report(cache: Path) -> None:
    chosen = compilers.flags(found := compilers.compiler())
    assert {"-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-ffp-contract=fast", "-shared"} <= set(chosen)
    assert build.build_report() == {
        "compiler": found.path,
        "version": found.version,
        "flags": " ".join(chosen),
        "built_without": "",
        "cache": str(cache),
    }


def test_first_compiler_that_answers_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match=r"no C compiler found \(looked for: \$REFSTACK_CC, gcc, clang, cc\)"):
        compilers.compiler()
    wrapper(tmp_path / "cc", "", version="echo 'cc (Debian) 12.2.0'; echo second line")
    assert compilers.compiler() == compilers.Compiler(str(tmp_path / "cc"), "cc (Debian) 12.2.0", "gcc")
    assert "-mtune=generic" in compilers.flags(compilers.compiler())
    wrapper(tmp_path / "clang", "", version="echo 'Debian clang version 16.0.6'")
    for nothing in ("exit 1", "echo gcc 13; exit 1", "true"):
        wrapper(tmp_path / "gcc", "", version=nothing)
        os.utime(tmp_path / "gcc", (len(nothing),) * 2)
        assert compilers.compiler().kind == "clang"
    assert compilers.compiler() == compilers.Compiler(str(tmp_path / "clang"), "Debian clang version 16.0.6", "clang")
    assert "-mtune=generic" not in compilers.flags(compilers.compiler())
    wrapper(tmp_path / "gcc", "", version="echo gcc 13")
    assert compilers.compiler().path == str(tmp_path / "gcc")
    monkeypatch.setenv("REFSTACK_CC", "/nonexistent")
    with pytest.raises(BackendUnavailable, match=r"looked for: \$REFSTACK_CC=/nonexistent\).*numpy backend"):
        build.library([])
    report = build.build_report()
    assert report.pop("compiler").startswith("unusable: no C compiler found")
    assert report == {"version": "", "flags": "", "built_without": "", "cache": str(tmp_path / "cache")}


def test_compile_error_shows_command_end_and_log(cache: Path, tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.c", "".join(f"#error wrong{line:02d}\n" for line in range(40)))
    with pytest.raises(CompileError, match=r"exit status 1\n  command .*-O3 .*bad\.c") as caught:
        build.library([bad])
    message = str(caught.value)
    assert ("wrong39" in message, "wrong00" in message, message.count("\n  | ")) == (True, False, 20)
    assert str(log := next((cache / "failed").glob("*.log"))) in message
    assert all(f"wrong{line:02d}" in log.read_text() for line in range(40))
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
    assert entries(cache) == []


def test_a_compile_error_that_is_no_text(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFSTACK_CC", str(wrapper(tmp_path / "cc", "printf 'caf\\351 \\303\\251\\n'; exit 3")))
    with pytest.raises(CompileError, match=r"exit status 3\n.*\n  \| caf\ufffd é\n"):
        build.library([write(tmp_path / os.fsdecode(b"\xff.c"), "")])
    text = next((cache / "failed").glob("*.log")).read_text(encoding="utf-8")
    assert text.endswith("-c '?.c' -o '?.c.o'\nexit status 3\ncaf\ufffd é\n")


def test_sources_that_cannot_become_a_library(cache: Path, tmp_path: Path, answer: Path) -> None:
    write(tmp_path / "x.h", "\n")
    with pytest.raises(CompileError, match=r"x\.h: No such file|'x\.h' file not found"):
        build.library([write(tmp_path / "hidden.c", '#include "x.h"\n')])
    serial = "void f(void) {\n#pragma omp parallel for\nfor (int i = 0; i < 9; i++) break;\n}\n"
    with pytest.raises(CompileError, match="OpenMP"):  # not dropped with -fopenmp, to give a serial library
        build.library([write(tmp_path / "serial.c", serial)])
    with pytest.raises(CompileError, match=r"compiles but does not load: .*missing"):
        build.library([write(tmp_path / "calls.c", "int missing(void); int answer(void) { return missing(); }\n")])
    with pytest.raises(UsageError, match=r"two C files are called answer\.c"):
        build.library([answer, write(tmp_path / "twin" / "answer.c", "\n")])
    with pytest.raises(UsageError, match=r"cannot read C file .*nothing\.c: No such file"):
        build.library([tmp_path / "nothing.c"])
    assert entries(cache) == []


def test_refused_and_malformed_flags(monkeypatch: pytest.MonkeyPatch, answer: Path) -> None:
    for flag in ("-ffast-math", "-Ofast", "-funsafe-math-optimizations"):
        with pytest.raises(UsageError, match=f"compiler flag {flag} is refused"):
            build.library([answer], extra_flags=[flag])
        with monkeypatch.context() as patch:
            patch.setenv("REFSTACK_CFLAGS", f"-g {flag}")
            with pytest.raises(UsageError, match=f"{flag} is refused.*remove it .REFSTACK_CFLAGS='-g {flag}'"):
                build.library([answer])
            assert f"{flag} is refused" in build.build_report()["compiler"]
    with pytest.raises(UsageError, match="compiler flag -Ofast, -ffast-math is refused"):
        compilers.flags(compilers.compiler(), extra_flags=["-ffast-math", "-g", "-Ofast"])
    monkeypatch.setenv("REFSTACK_CFLAGS", "-DX='")
    with pytest.raises(UsageError, match="cannot be split into flags"):
        build.library([answer])
    with pytest.raises(UsageError, match="build variant is 'quick', known are release, sanitize"):
        compilers.flags(compilers.Compiler("", "", "gcc"), "quick")


LACKS = [
    ("-march=native", "error: bad value ('native') for '-march=' switch"),
    ("-march=native", "error: unknown target CPU 'native'"),
    ("-fopenmp", "error: unrecognized command-line option '-fopenmp'"),
    ("-fopenmp", "ld: cannot find -lgomp: No such file or directory"),
    ("-fopenmp", "ld: cannot find -lomp: No such file or directory"),
    ("-fopenmp", "ld: library not found for -liomp5"),
    ("-fopenmp", "fatal error: cannot read spec file 'libgomp.spec'"),
    ("-fopenmp", "answer.c:1:10: fatal error: omp.h: No such file or directory"),
    ("-fopenmp", "answer.c:1:10: fatal error: 'omp.h' file not found"),
]


@pytest.mark.parametrize("lacking", [*([each] for each in LACKS), [LACKS[2], LACKS[0]]])
def test_a_flag_the_compiler_lacks_is_left_out_and_told(
    lacking: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Path
) -> None:
    flag = " ".join(flag for flag, _ in lacking)
    monkeypatch.setenv("REFSTACK_CC", str(wrapper(tmp_path / "cc", "".join(failing(*each) for each in lacking))))
    for _ in "cold", "warm":
        monkeypatch.setattr(build, "_loaded", {})
        assert build.library([answer]).answer() == 42
        assert build.build_report()["built_without"] == flag


def test_hanging_compiler_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Path) -> None:
    child, done = tmp_path / "pid", tmp_path / "done"
    hang = f'case "$*" in *answer.c*) (sleep 2; touch "{done}") & echo $! > "{child}"; wait;; esac'
    monkeypatch.setenv("REFSTACK_CC", str(wrapper(tmp_path / "cc", hang)))
    monkeypatch.setattr(build, "TIMEOUT_S", 0.5)
    with pytest.raises(CompileError, match=r"  \| stopped: not done after 0\.5 s\n"):
        build.library([answer])
    state = Path(f"/proc/{child.read_text().strip()}/stat")
    wait_for(lambda: not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z")
    assert not done.exists()


def test_sanitized_library_needs_its_runtime_and_then_catches(tmp_path: Path) -> None:
    code = "#include <stdlib.h>\nint answer(void) { volatile char *p = malloc(8); free((void *)p); return *p; }\n"
    source = write(tmp_path / "answer.c", code)
    with pytest.raises(BackendUnavailable, match=r"sanitizer's runtime is not loaded; .*LD_PRELOAD=") as told:
        build.library([source], variant="sanitize")
    hint = str(told.value).partition("$(")[2].partition(")")[0]
    runtime = subprocess.check_output(hint.split(), text=True).strip()
    run = "print(build.library([Path(sys.argv[1])], variant='sanitize').answer())"
    out, err, status = fresh(source, run=run, LD_PRELOAD=runtime, ASAN_OPTIONS="")
    assert (out, status != 0, "heap-use-after-free" in err, "answer.c:2" in err) == ("", True, True, True)


def test_clang_needs_its_own_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Path) -> None:
    clang, gcc = (compilers.Compiler("", "", kind) for kind in ("clang", "gcc"))
    assert "-shared-libsan" in compilers.flags(clang, "sanitize")
    assert "-shared-libsan" not in compilers.flags(clang) + compilers.flags(gcc, "sanitize")
    monkeypatch.setenv("REFSTACK_CC", str(wrapper(tmp_path / "clang", "", version="echo clang")))
    runtime = f"libclang_rt.asan-{platform.machine()}.so"
    with pytest.raises(
        BackendUnavailable, match=rf"LD_PRELOAD=.\$\({tmp_path}/clang -print-file-name={runtime}\). ASAN_"
    ):
        build.library([answer], variant="sanitize")


X86 = "vendor_id\t: V:\xff\ncpu family\t: 25\nmodel\t\t: 17\nstepping\t: 1\ncpu MHz\t\t: {}\nflags\t\t: {}\n"
ARM = "BogoMIPS\t: {}\nFeatures\t: {}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize(("processor", "told"), [(X86, "V:\ufffd 25 17 1"), (ARM, "0x41 8 0xd0c")], ids=["x86", "arm"])
def test_cpu_features_are_stable_and_tell_processors_apart(processor: str, told: str, tmp_path: Path) -> None:
    def features(clock: int, sets: str) -> str:
        text = f"{processor.format(clock, sets)}\n{processor.format(0, 'other')}extra\n"
        (tmp_path / "cpuinfo").write_bytes(text.encode("latin-1"))
        return compilers.cpu_features(tmp_path / "cpuinfo")

    assert features(1000, "fma avx2 sse") == f"{platform.machine()} {told} avx2 fma sse"
    assert features(1000, "fma avx2 sse") == features(2345, "sse avx2 fma") != features(1000, "sse avx2 fma avx512f")
    assert compilers.cpu_features(tmp_path / "none") == platform.machine()

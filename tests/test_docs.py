"""The pages are built without a warning, hold what the code has, and every command in them is one."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from doc_commands import PAGES, ROOT, Command, commands, missing, named

from refstack import __all__ as public
from refstack import cli
from refstack.backends import BACKENDS, backend, openmp_rows
from refstack.backends.numpy import kernels as numpy_rows
from refstack.benchmark import worker

DOCS = ROOT / "docs"
RUN = ("tutorial", "reading-order", "fooling")
"""Pages whose console blocks are run, from the first to the last, in one folder."""


def build(docs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Sphinx as `make docs` calls it."""
    ask = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-b", "html", docs, out]
    return subprocess.run(ask, capture_output=True, text=True, timeout=300)


# What is built


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("html")
    done = build(DOCS, out)
    assert done.returncode == 0, done.stderr
    return out


def words(page: Path) -> str:
    """A page's text without tags, white space as single spaces."""
    return " ".join(re.sub(r"<[^>]+>", "", page.read_text("utf-8")).split())


def test_every_verb_and_option_is_in_the_reference(built: Path) -> None:
    text = words(built / "cli.html")
    for name, verb in verbs().items():
        assert f"refstack {name}" in text
        assert all(option in text for option in verb), name
    assert "One of table, json, jsonl, csv, md." in text
    assert "--no-such-option" not in text


def test_every_public_name_is_in_the_reference(built: Path) -> None:
    text = words(built / "api.html")
    assert all(f"refstack.{name}" in text for name in public)
    assert "float32 (batch, c, h, w)" in text, "fields of docstrings are shown"


def test_every_kernel_is_listed_and_its_source_shown(built: Path) -> None:
    text = words(built / "kernels.html")
    for row in (*openmp_rows.rows("openmp", 16), *numpy_rows()):
        assert row.name in text
    files = [path.name for path in (ROOT / "accel" / "openmp").glob("*.c") if path.name not in ("rs_run.c", "roofs.c")]
    lost = [name for name in files if f"accel/openmp/{name}" not in text]
    if "opencl" in BACKENDS and backend("opencl").unavailable() is None:
        runs = [row.run if isinstance(row.run, tuple) else (row.run,) for row in backend("opencl").kernels()]
        files = {f"accel/opencl/{launch.source}.cl" for run in runs for launch in run}
        lost += [name for name in files if name not in text]
    assert not lost
    assert "def conv2d(x: Array" in text
    assert "void rs_conv2d_csr_planar(const rs_args *a)" in text


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_from_outside_lead_somewhere(page: str) -> None:
    """Those inside docs/ are the build's concern."""
    text = (ROOT / page).read_text("utf-8")
    targets = re.findall(r"\]\(([^)#:]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    lost = [target for pair in targets if not (ROOT / (target := "".join(pair))).exists()]
    assert not lost
    assert len(targets) >= 10 or page != "README.md"


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text("utf-8")
    pages = [path.name for path in DOCS.glob("*.md") if path.name != "index.md"]
    lost = [name for name in pages if f"]({name})" not in index]
    assert not lost, f"docs/index.md has no line for {lost}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gone](gone.md) [part](#no-such-part)", ("'gone.md'", "'no-such-part'")),
        ("<!-- fill: nothing -->", ("nothing fills <!-- fill: nothing -->, wanted one of api, cli,",)),
    ],
)
def test_a_fault_in_a_page_ends_the_build(tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    for name in ("refstack", "tools", "accel"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs" / "_static").mkdir(parents=True)
    (tmp_path / "docs" / "conf.py").write_text((DOCS / "conf.py").read_text("utf-8"), "utf-8")
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n{text}\n", "utf-8")
    done = build(tmp_path / "docs", tmp_path / "out")
    assert done.returncode != 0
    assert all(each in done.stderr for each in said), done.stderr


# Commands that are named


def verbs() -> dict[str, set[str]]:
    """Each verb's options, by the words behind `refstack`."""
    found: dict[str, set[str]] = {}

    def walk(command: object, name: str) -> None:
        options = {word for param in command.params for word in (*param.opts, *param.secondary_opts) if word[0] == "-"}  # type: ignore[attr-defined]
        found[name.strip()] = options | {"--help", "-h"}
        for verb, each in getattr(command, "commands", {}).items():
            walk(each, f"{name} {verb}")

    walk(typer.main.get_command(cli.app), "")
    return found


def refused(text: str) -> str | None:
    """Why a command that a page names is none of ours, or None."""
    program, *rest = shlex.split(text, comments=True)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        return None if rest[0].rstrip(".,") in targets else f"no target {rest[0]}"
    if program == "python" and rest[:2] == ["-m", "pytest"]:
        return _no_test(rest[2:])
    if program == "python" and rest[0] == "-m":
        return None if importlib.util.find_spec(rest[1]) else f"no module {rest[1]}"
    if program == "python":
        return None if (ROOT / rest[0]).exists() else f"no file {rest[0]}"
    known = verbs()
    if rest[0] == "VERB":
        return None
    verb = next((name for name in (" ".join(rest[:2]), rest[0]) if name in known), "" if rest[0][0] == "-" else None)
    if verb is None:
        return f"no verb {rest[0]}"
    wrong = [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known[verb]]
    return f"{verb} has no {wrong}" if wrong else None


def _no_test(arguments: list[str]) -> str | None:
    """pytest [-q] FILE [-k WORD]: a test of that file has the word in its name."""
    (name,) = (each for each in arguments if each.endswith(".py"))
    word = arguments[arguments.index("-k") + 1] if "-k" in arguments else ""
    if not (ROOT / name).exists():
        return f"no file {name}"
    tests = [
        node.name for node in ast.parse((ROOT / name).read_text("utf-8")).body if isinstance(node, ast.FunctionDef)
    ]
    hits = [each for each in tests if each.startswith("test_") and word in each]
    return None if hits else f"no test of {name} has {word!r} in its name"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_names_are_there(page: Path) -> None:
    wrong = {text: why for text in named(page.read_text("utf-8")) if (why := refused(text))}
    assert not wrong


def test_commands_that_are_not_there_are_seen() -> None:
    text = "`refstack dance`, `refstack bench --fast` and\n\n    make dinner   now\n    python tools/none.py\n"
    assert [refused(each) for each in named(text)] == [
        "no verb dance", "bench has no ['--fast']", "no target dinner", "no file tools/none.py",
    ]  # fmt: skip
    assert refused("python -m pytest tests/test_docs.py -k no_such_thing") is not None
    assert refused("python -m pytest tests/test_docs.py -k are_not_there") is None
    assert len([each for page in PAGES for each in named(page.read_text("utf-8"))]) > 60


FIGURE = re.compile(r"^\|.*\d\.\d", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_figures_stand_beside_a_command(page: Path) -> None:
    text = page.read_text("utf-8")
    assert bool(named(text)) >= bool(FIGURE.search(text)), "a table of figures, and no command that gives them"


def test_figures_are_seen() -> None:
    assert len([page for page in PAGES if FIGURE.search(page.read_text("utf-8"))]) >= 8


# Commands that are run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Like the repository's root, but what is written stays here; with `refstack` and `python` on the path."""
    for each in ROOT.iterdir():
        if each.name not in ("results", ".git"):
            (tmp_path / each.name).symlink_to(each)
    (tmp_path / "bin").mkdir()
    for name, module in (("refstack", "-m refstack"), ("python", "")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def run(command: Command, folder: Path) -> str | None:
    """None, or what went wrong: an exit status that is not 0, or a line that the page shows and the output lacks."""
    env = worker.environment(1) | {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "NO_COLOR": "1",
        "REFSTACK_DATA_DIR": str(folder / "none"), "REFSTACK_TUNING_FILE": str(folder / "tuning.json"),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", command.text], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=120,
    )  # fmt: skip
    where = f"{command.page}, line {command.line}: {command.text}"
    if done.returncode:
        return f"{where}\nended with {done.returncode}:\n{done.stdout}"
    lost = missing(command.prints, done.stdout)
    return f"{where}\ndid not print {lost}, but:\n{done.stdout}" if lost else None


def is_test(command: Command) -> bool:
    """The suite runs it anyway."""
    return command.text.startswith("python -m pytest")


@pytest.mark.parametrize("page", RUN)
def test_the_pages_commands_do_what_the_page_says(page: str, folder: Path) -> None:
    found = commands((DOCS / f"{page}.md").read_text("utf-8"), f"docs/{page}.md")
    assert len([each for each in found if each.reason is None]) >= 4
    for command in found:
        if command.reason is None and not is_test(command):
            problem = run(command, folder)
            assert problem is None, problem


def test_every_command_is_run_or_says_why_not() -> None:
    for page in PAGES:
        for command in commands(page.read_text("utf-8"), page.name):
            assert command.reason != "", f"{command.page}, line {command.line}: not run, and no reason"
            assert command.reason or page.stem in RUN, f"{command.page}, line {command.line} is in no page of RUN"
            assert refused(command.text) is None if is_test(command) else True, command.text


def test_a_command_that_does_something_else_is_seen(folder: Path) -> None:
    text = "```console\n$ echo 12 ms\n13 ms\n$ echo hello\nworld\n$ exit 3\n$ printf '%s\\n' \\\n>   a\na\n```\n"
    good, other, bad, longer = commands(text, "page")
    assert (good.line, other.line, longer.text) == (2, 4, "printf '%s\\n' \\\n  a")
    assert run(good, folder) is None, "numbers may differ"
    assert run(longer, folder) is None
    assert "did not print ['world']" in str(run(other, folder))
    assert "ended with 3" in str(run(bad, folder))
    (skipped,) = commands("<!-- not run: it takes days -->\n```console\n$ false\n```\n", "page")
    assert skipped.reason == "it takes days"

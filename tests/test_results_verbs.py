"""best, check, merge, and the command line of all four verbs."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from benching import strict_loads
from commands import here
from results import ENV, dumped, journal, row, times

from refstack.benchmark.rows import Row
from refstack.errors import FormatError, UsageError
from refstack.results import best, check, load, merge
from refstack.results.rules import RULES


def shelf() -> list[Row]:
    return [
        row("vgg16", ms=3.0, top1=92.0, planned_bytes=60_000_000),
        row("vgg16", "int8", ms=1.0, top1=91.9, planned_bytes=15_000_000),
        row("resnet18", ms=5.0, top1=95.0, planned_bytes=50_000_000),
        row("resnet18", "channel", ms=0.9, top1=93.5, planned_bytes=7_000_000),
        row("resnet18", "channel", ms=0.7, top1=93.5, planned_bytes=7_000_000, threads=2),
        row("mobilenet", ms=None, top1=99.0),
        row("mobilenet", "weight", ms=0.5, top1=None),
    ]


def test_best_is_the_fastest_within_limits_and_the_runner_up_another_point() -> None:
    (found,) = best(shelf(), 91)
    assert found.best is not None
    assert found.runner_up is not None
    assert found.margin is not None
    assert (found.best["technique"], found.best["threads"], found.runner_up["technique"]) == ("channel", 2, "int8")
    assert found.margin.low < 1.0 / 0.7 < found.margin.high
    assert found.doubts == ()
    (found,) = best(shelf(), 91.8, latency_ms=2.0, memory_bytes=7e6 - 1)
    assert (found.best, found.runner_up) == (None, None)
    assert found.nearest == "but for memory: resnet18 channel openmp 1t with 7e+06 B"
    (found,) = best(shelf(), 99)
    assert "but for accuracy: resnet18 dense openmp 1t with 95 %" in found.nearest
    (found,) = best(shelf(), 94, latency_ms=1)
    assert found.nearest.startswith(
        "but for accuracy: resnet18 channel openmp 1t with 93.5 %; but for latency: resnet18"
    )


def test_best_answers_for_each_machine_and_tells_doubts() -> None:
    away = [each | {"env": ENV | {"host": "there", "cpu": "other"}, "weights": "drawn"} for each in shelf()]
    board = row("vgg16", "dense", ms=0.1, backend="opencl", env=ENV | {"device": {"name": "a board", "kind": "gpu"}})
    found = best([*shelf(), *away, board], 90)
    assert [each.machine for each in found] == ["a processor", "other", "a processor, a board"]
    assert found[1].doubts == ("its weights are drawn: time and bytes are right, the trained ones are not shipped",)
    assert found[2].runner_up is None
    (found_close,) = best(shelf(), 93.4)
    assert found_close.doubts == ("accuracy 93.50 +- 0.49 % of 10000 images may be below the limit",)


def test_best_refuses_nonsense() -> None:
    for arguments, told in (((101.0,), "--accuracy"), ((90.0, 0.0), "--latency"), ((90.0, 1.0, -1.0), "--memory")):
        with pytest.raises(UsageError, match=f"{told}: got"):
            best(shelf(), *arguments)
    with pytest.raises(UsageError, match="no row has both a time and an accuracy"):
        best([row(ms=None)], 90)


def whole() -> list[Row]:
    """Rows that break no rule at all."""
    env = ENV | {"governor": "performance"}
    rows = []
    for model in ("vgg16", "resnet18", "mobilenet"):
        rows.append(row(model, env=env))
        for kind in ("weight", "weight-random"):
            for level in (0.5, 0.6, 0.7, 0.8, 0.9):
                for seed in range(3):
                    more: dict[str, Any] = {"level": level, "point": f"{model}/{kind}-{level}-s{seed}", "env": env}
                    rows.append(row(model, f"{kind}-{level}-s{seed}", artifact_sha256=f"{kind}{level}{seed}", **more))
    return rows


def broken(rule: str) -> list[Row]:
    """The same, with the one fault that this rule is for."""
    rows = copy.deepcopy(whole())
    first = rows[0]
    changes: dict[str, Row] = {
        "sizes": {"macs": None}, "stored-bytes": {"stored_bytes": None}, "outputs": {"max_error_vs_bound": None},
        "times": {"latency_p50_ms": first["latency_p50_ms"] * 0.9}, "quick": {"quick": True},
        "threads": {"threads": 3}, "roof": {"macs": 10**12},
        "artifact": {"top1": None}, "samples": times(2.0, rounds=3), "spread": times(2.0, drift=0.5),
        "governor": {"env": first["env"] | {"governor": "powersave"}},
        "load": {"env": first["env"] | {"load_average": [0.6, 0, 0]}}, "machine": {"env": first["env"] | {"host": "b"}},
        "build": {"env": first["env"] | {"key": "b"}}, "rounding": {"stored_as": "float16"},
    }  # fmt: skip
    if rule in changes:
        return [first | changes[rule], *rows[1:]]
    return {
        "controls": [each for each in rows if each is not first],
        "random": [each for each in rows if "vgg16/weight-random" not in (each["point"] or "")],
        "points": [each for each in rows if each["model"] != "vgg16" or each["level"] in (None, 0.5, 0.6)],
        "seeds": [each for each in rows if not re.search("vgg16/.*-s2", each["point"] or "")],
        "networks": [each for each in rows if each["model"] != "mobilenet"],
        "failures": [*rows, row("vgg16", ms=None, backend="blas")],
    }[rule]


@pytest.mark.parametrize("rule", [rule.id for rule in RULES])
def test_each_rule_finds_the_fault_that_it_is_for(rule: str) -> None:
    found = check(broken(rule))
    assert {each.rule for each in found} - {"controls"} == {rule} - {"controls"}, found
    assert rule in {each.rule for each in found}
    assert all(each.source and each.problem and each.where for each in found)


def test_rows_without_fault_break_no_rule() -> None:
    assert check(whole()) == []
    assert len({rule.id for rule in RULES}) == len(RULES)
    odd = [row(ms=None) | times(2.0), row("b", samples_ns=[], rounds=[])]
    assert {each.problem for each in check(odd) if each.rule == "times"} == {
        "status is failed, but it has times", "status is ok, but it has no times",
    }  # fmt: skip
    assert [each.level for each in check(odd)] == sorted(each.level for each in check(odd))


@pytest.mark.parametrize(("format", "most"), [("dense", 4), ("ternary+dense", 4), ("int8+dense", 8)])
def test_the_roof_is_what_an_algorithm_can_save(format: str, most: int) -> None:
    """F(4,3) takes a quarter of the products, and int8's two of them a lane."""
    env, first = whole()[0]["env"] | {"roofs": [{"threads": 1, "flops": 1e9}]}, whole()[0]
    for factor, rules in ((0.99, set()), (1.01, {"roof"})):
        macs = factor * most * 1e9 * first["latency_p50_ms"] * 1e-3 / 2
        found = check([first | {"env": env, "format": format, "macs": macs}])
        assert {each.rule for each in found} & {"roof"} == rules


def test_merge_keeps_each_row_once(tmp_path: Path) -> None:
    first, second = journal(tmp_path / "a.jsonl", shelf()), dumped(tmp_path / "b.json", [*shelf(), row(seed=9)])
    for name in ("c.jsonl", "c.json"):
        merged = merge([first, second], tmp_path / "new" / name)
        assert load(tmp_path / "new" / name) == merged == [*shelf(), row(seed=9)]
        before = (tmp_path / "new" / name).read_bytes()
        with pytest.raises(UsageError, match="is there already; name another --output"):
            merge([first], tmp_path / "new" / name)
        assert (tmp_path / "new" / name).read_bytes() == before
    (tmp_path / "bad").write_text("[NaN]")
    with pytest.raises(FormatError):
        merge([first, tmp_path / "bad"], tmp_path / "d.jsonl")
    assert not (tmp_path / "d.jsonl").exists()


def test_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ours = str(journal(tmp_path / "a.jsonl", shelf()))
    slow = str(dumped(tmp_path / "b.json", [row("vgg16", ms=4.5, top1=92.0), *shelf()[1:]]))
    done = here(capfd, "best", ours, "--accuracy", "91.9", "--latency", "950us", "--memory", "20MB", "--format", "json")
    assert done.returncode == 0
    assert strict_loads(done.stdout)[0]["best"]["technique"] == "channel"
    assert "samples_ns" not in strict_loads(done.stdout)[0]["best"]
    done = here(capfd, "best", ours, "-a", "91")
    assert "the runner-up takes 1.4" in done.stderr
    assert "runner-up" in done.stdout
    done = here(capfd, "best", ours, "-a", "99")
    assert (done.returncode, done.stdout) == (1, "")
    done = here(capfd, "best", ours, "-a", "91", "--latency", "5")
    assert (done.returncode, "--latency: got '5', wanted a number and one of us, ms, s" in done.stderr) == (2, True)

    done = here(capfd, "compare", ours, slow, "--fail-above", "5%", "--format", "json")
    assert done.returncode == 1
    assert strict_loads(done.stdout)[0]["verdict"] == "worse"
    assert "0 better, 1 worse" in done.stderr
    done = here(capfd, "compare", ours, slow, "--fail-above", "60%", "--format", "md")
    assert (done.returncode, done.stdout.splitlines()[1][:4]) == (0, "|---")
    assert here(capfd, "compare", slow, ours).returncode == 0
    assert here(capfd, "compare", ours, str(tmp_path / "none")).returncode == 2
    assert "6 same, 1 inconclusive" in here(capfd, "compare", ours, ours).stderr

    done = here(capfd, "check", ours, "--format", "json")
    assert done.returncode == 1
    assert {each["rule"] for each in strict_loads(done.stdout) if each["level"] == "error"} == {"controls"}
    assert here(capfd, "check", str(journal(tmp_path / "w.jsonl", whole()))).returncode == 0
    done = here(capfd, "merge", ours, slow, "-o", str(tmp_path / "m.json"))
    assert (done.returncode, done.stdout, len(json.loads((tmp_path / "m.json").read_text()))) == (0, "", 8)

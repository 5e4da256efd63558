"""The text of `walk`: all sources that a run of steps needs in one program, and a switch over their functions.

Every source stands there once for each set of constants. For processors (in spans) whatever one defines is renamed or
forgotten behind it, since they were written as programs of their own and define the same names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from refstack.backends.opencl import segment
from refstack.backends.opencl.calls import Call, Kind, Layout

_MACRO = re.compile(r"^\s*#\s*define (\w+)", re.MULTILINE)
_NAMES = re.compile(
    r"^(?:RS_INLINE|static inline) [^(]*?(\w+)\(|^(?:RS_ALONE|RS_KERNEL) (\w+)\("  # functions
    r"|^typedef (?!struct|union)\w+ (\w+)|^(?:typedef .*)?\} (\w+);",  # types
    re.MULTILINE,
)


def program(layout: Layout, kinds: Mapping[Kind, int]) -> str:
    """The whole text; `kinds` numbers the functions."""
    parts = ["#define RS_WALK 1", *["#define RS_SPANS 1"] * layout.spans, segment.text("walk")]
    bodies: dict[tuple[str, tuple[tuple[str, int], ...]], dict[str, str]] = {}
    for (source, constants, function), number in kinds.items():
        bodies.setdefault((source, constants), {})[function] = f"step_{number}"
    for unit, ((source, constants), functions) in enumerate(bodies.items()):
        content = segment.file_text(source)
        names = {**(_renamed(content, unit) if layout.spans else {}), **dict(constants), **functions}
        parts += [f"#define {name} {value}" for name, value in names.items()]
        parts += [content, *(f"#undef {name}" for name in names)]
        parts += [f"#undef {name}" for name in dict.fromkeys(_MACRO.findall(content))] if layout.spans else []
    calls = {call.kind: call for call in layout.calls}
    parts += [_share(number, calls[kind]) for kind, number in kinds.items() if calls[kind].size]
    cases = "\n".join(_case(number, calls[kind]) for kind, number in kinds.items())
    parts.append(_WALK.replace("CASES", cases).replace("SHARED", str(layout.room)).replace("WIDTH", str(layout.items)))
    return "\n".join(parts)


def _renamed(content: str, unit: int) -> dict[str, str]:
    """What a source calls its functions and types -> names that no other has."""
    return {name: f"{name}_{unit}" for found in _NAMES.findall(content) for name in found if name}


def _arrays(call: Call) -> str:
    return ", ".join(f"AT({i})" for i in range(len(call.at)))


def _share(number: int, call: Call) -> str:
    return f"RS_SHARE(share_{number}, step_{number}({_arrays(call)}, steps[i].a, &item))"


def _case(number: int, call: Call) -> str:
    if call.size:
        return f"            case {number}: share_{number}(memory, given, steps, i, group, groups); break;"
    return f"            case {number}: step_{number}({_arrays(call)}, steps[i].a, group, groups, room); break;"


_WALK = """
#undef ROOM
#line 1 "walk"
__kernel __attribute__((reqd_work_group_size(WIDTH, 1, 1)))
void walk(__global uchar *memory, __constant const rs_step *steps, const int count, const int meetings,
          volatile __global int *met, const int patience, __global ulong *times, __global uchar *given) {
    __local float room[SHARED] __attribute__((aligned(16)));
    const int groups = get_num_groups(0);
    int goal = 0;
    for (int i = 0; i < count; i++) {
        if (steps[i].wait) rs_meet(met, goal += groups, patience);
        STAMP(i)
        int group = (int)get_group_id(0) - steps[i].shift;
        if (group < 0) group += groups;
        switch (steps[i].kind) {
CASES
        }
    }
    STAMP(count)
    rs_part(met, groups * (meetings + 1));
}
"""

"""docs/results.md has the rules and fields that the code has."""

from __future__ import annotations

from results_page import PAGE, renewed


def test_the_page_is_what_the_code_says() -> None:
    text = PAGE.read_text("utf-8")
    assert renewed(text) == text, "run python tools/results_page.py"
    assert renewed(text.replace("| controls | error |", "| controls | warn |")) == text
    assert text.count("<!-- end -->") == 2

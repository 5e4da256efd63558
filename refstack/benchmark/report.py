"""What a run says while it works. The base class says nothing; the command line shows it on stderr."""

from __future__ import annotations


class Report:
    """Silent. Override what you want to hear."""

    def note(self, text: str) -> None:
        """A fact the reader should know: where the journal is, what is left out and why."""

    def begin(self, units: int) -> None:
        """The run has so many units of work."""

    def advance(self, units: float, doing: str) -> None:
        """Some of them are done."""

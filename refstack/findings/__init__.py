"""Claims of the study and of its successor, held against rows of one's own.

    rows -> machines -> hypotheses, each judged case by case -> holds, fails, depends or untested, with figures, reason

Next: cases.py, claims.toml, judges.py, across.py, page.py
"""

from refstack.findings.cases import Case as Case
from refstack.findings.cases import Finding as Finding
from refstack.findings.cases import Hypothesis as Hypothesis
from refstack.findings.page import page as page
from refstack.findings.verdicts import HYPOTHESES as HYPOTHESES
from refstack.findings.verdicts import findings as findings
from refstack.findings.verdicts import shipped as shipped

__all__ = ["HYPOTHESES", "Case", "Finding", "Hypothesis", "findings", "page", "shipped"]

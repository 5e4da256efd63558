"""Is a kernel right on this machine? Drawn problems, hostile surroundings, controls that must be caught."""

from refstack.verification.verdicts import Verdict, sensitivity, verify

__all__ = ["Verdict", "sensitivity", "verify"]

"""Is a kernel right on this machine? Drawn problems, hostile surroundings, controls that must be caught."""

from refstack.verification.gate import refused
from refstack.verification.network import NetworkCheck, verify_model
from refstack.verification.verdicts import PROFILES, Verdict, sensitivity, verify

__all__ = ["PROFILES", "NetworkCheck", "Verdict", "refused", "sensitivity", "verify", "verify_model"]

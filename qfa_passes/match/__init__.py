"""Finding attention: graph -> AttentionSite or Refusal, by mathematics and not by operator strings."""

from qfa_passes.match.matcher import find_sites

__all__ = ["find_sites"]

"""Site and data -> statistics: what flows through Q, K and V on real inputs."""

from qfa_passes.calibrate.capture import capture
from qfa_passes.calibrate.statistics import SiteStatistics

__all__ = ["SiteStatistics", "capture"]

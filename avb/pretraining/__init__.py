"""Pre-training of encoders on unlabelled bursts."""

from avb.pretraining.models import OBJECTIVES

__all__ = ["OBJECTIVES"]

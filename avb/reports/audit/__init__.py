"""Does a model stand what recordings go through, and does it hear everyone alike? `python -m avb.reports audit MODEL`.

Each clip is scored as it was recorded and changed one way after another (level, noise, rate, codec, room, clipping,
trimming, speech behind it); the speakers are compared group by group. Thresholds come from the data:
`avb.reports.audit.verdicts`.
"""

from avb.reports.audit.audit import Audit, audit, markdown, read_groups
from avb.reports.audit.changes import CHANGES, backgrounds
from avb.reports.audit.model import audit_model
from avb.reports.audit.verdicts import Finding, judge_change, judge_groups

__all__ = [
    "CHANGES",
    "Audit",
    "Finding",
    "audit",
    "audit_model",
    "backgrounds",
    "judge_change",
    "judge_groups",
    "markdown",
    "read_groups",
]

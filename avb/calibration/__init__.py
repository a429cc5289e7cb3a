"""How sure a model may be: fits `calibration.json` (see `calibration_avb`) on speakers it was not trained on.

python -m avb.calibration runs/mine clips.csv --split validation
"""

from avb.calibration.fit import fit_task, measure
from avb.calibration.model import calibrate

__all__ = ["calibrate", "fit_task", "measure"]

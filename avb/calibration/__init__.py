"""How sure a model may be: fits `calibration.json` (see `calibration_avb`) on speakers it was not trained on.

python -m avb.calibration runs/mine clips.csv --split validation
"""

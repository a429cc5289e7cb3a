"""Fits `calibration.json` (see `calibration_avb`), which says how reliable a model's scores are for unseen speakers.

python -m avb.calibration runs/mine clips.csv --split validation
"""

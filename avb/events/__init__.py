"""Vocal bursts in recordings: finds them, scores them, and trains the detector.

import avb
avb.find("interview.wav")  # DataFrame: start, end, detection, one column per emotion

python -m avb.events fetch DIR              # the free recordings of recipes/events/sources.csv
python -m avb.events prepare | scenes | train | evaluate | export
"""

"""Vocal bursts in recordings: where they are, what they are, and how the detector came about.

import avb
avb.find("interview.wav")  # DataFrame: start, end, detection, one column per emotion

python -m avb.events fetch DIR              # the free recordings of recipes/events/sources.csv
python -m avb.events prepare | scenes | train | evaluate | export
"""

#!/usr/bin/env bash
# From EmoGator's recordings to a model that can be shipped: teachers by folds of speakers, a student of theirs, its
# calibration, its rejection of what is no burst, its report and audit, its exports and its card. Resumable: what is finished is
# not trained again, a training goes on from its checkpoint; what is fitted to weights is fitted anew.
#
#   [POOL=build/pool] bash recipes/emogator/make_models.sh EMOGATOR [arguments of every training, such as --bf16 true]
#
# POOL is what `python -m avb.events prepare` wrote; without it the rejection is left out. On two processor cores this is a matter
# of weeks, on a GPU of minutes to hours; it has not been run through yet, but for a trial with a step of each training
# (tests/test_make_models.py). The 30 validation speakers are looked at once, at the end.
set -euo pipefail
data=${1:?give the folder of EmoGator\'s shards}
shift
python -m avb.training.queue recipes/emogator/models.txt --state runs/emogator/queue -- --data_dir "$data" --report_to none "$@"
python -m avb.calibration runs/emogator/student "$data" --corpus emogator --split validation
if [ -n "${POOL:-}" ]; then
    python -m avb.events reject runs/emogator/student --pool "$POOL" --data_dir "$data"
fi
python -m avb.reports audit runs/emogator/student "$data" --corpus emogator --split validation --output runs/emogator/audit
python -m avb.reports analyse runs/emogator/student --output runs/emogator/report
python -m avb.export runs/emogator/student runs/emogator/student --hub
python -m avb.cards write runs/emogator/student --name emogator-small
python -m avb.cards check runs/emogator/student
# If it is better: python -m avb.cards ship runs/emogator/student emogator-small

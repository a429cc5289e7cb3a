#!/usr/bin/env bash
# From EmoGator's recordings to a model that can be shipped: teachers trained on folds of the speakers and on all of them, a
# student that learns from the folds' models, then its calibration, rejection of other sounds, audit, report, exports and card.
#
#   [POOL=build/pool] bash recipes/emogator/make_models.sh EMOGATOR [arguments of every training, such as --bf16 true]
#
# Run it in the project's folder. POOL is the folder written by `python -m avb.events prepare`; without it, the rejection is
# left out. It takes weeks on two processor cores, and an estimated hour on a GPU (on an H100, an epoch of the wider
# se_resnet-wide.yaml takes 4.6 s; two trainings at once make 1.6 times as many clips a second). So far only a trial with a
# step of each training has been run (tests/test_make_models.py).
#
# The same command resumes it: finished trainings are kept, an interrupted one continues from its last checkpoint, and what
# is fitted to the student is fitted again. Other settings than before are refused (delete runs/emogator to start over).
# The output of each training is in runs/emogator/queue. The 30 validation speakers are scored once, at the end.
set -euo pipefail
data=${1:?give the folder of EmoGator\'s shards}
shift
child=
# A scheduler may send its signal to this script only: pass it on, and wait for the checkpoint.
trap 'if [ -n "$child" ]; then kill -TERM "$child" 2> /dev/null; wait "$child" || true; fi; exit 143' INT TERM
step() {
    "$@" &
    child=$!
    wait "$child"
    child=
}
step python -m avb.training.queue recipes/emogator/models.txt --state runs/emogator/queue -- --data_dir "$data" --report_to none "$@"
step python -m avb.calibration runs/emogator/student "$data" --corpus emogator --split validation
if [ -n "${POOL:-}" ]; then
    step python -m avb.events reject runs/emogator/student --pool "$POOL" --data_dir "$data"
fi
step python -m avb.reports audit runs/emogator/student "$data" --corpus emogator --split validation --output runs/emogator/audit
step python -m avb.reports analyse runs/emogator/student --output runs/emogator/report
step python -m avb.export runs/emogator/student runs/emogator/student --hub
step python -m avb.cards write runs/emogator/student --name emogator-small
step python -m avb.cards check runs/emogator/student
# If it is better than the shipped one: python -m avb.cards ship runs/emogator/student emogator-small

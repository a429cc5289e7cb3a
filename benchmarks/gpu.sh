#!/usr/bin/env bash
# Every GPU row, in one command of under eight minutes on one large GPU (80 GB):
#   benchmarks/gpu.sh
# What is asked of it: four times the peer at batch 16 (the first row's ratio), and a quarter of the chip at batch 128
# (the share of a matrix product's rate that the rows without a peer print). Exit code 1 where a row failed.
# Dry run of the same lines on a CPU, at toy size:
#   DEVICE=cpu SHAPE=TOY BATCH=2 LARGE_BATCH=4 EPOCHS=1 CLIPS=32 ROUNDS=1 RESULTS=/tmp/dry.csv benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD"
device="${DEVICE:-cuda}" shape="${SHAPE:-LARGE}" batch="${BATCH:-16}" large_batch="${LARGE_BATCH:-128}"
epochs="${EPOCHS:-20}" clips="${CLIPS:-400}" rounds="${ROUNDS:-10}" results="${RESULTS:-results/benchmarks.csv}"
limit="${LIMIT:-180}" # seconds per row
failed=0

run() {
  timeout "$limit" python "benchmarks/$1" --shape "$shape" --device "$device" --results "$results" "${@:2}" ||
    { echo "gpu.sh: failed: $*" >&2; failed=1; }
}

step() { run train_step.py --rounds "$rounds" "$@"; }

step --bf16 --batch_size "$batch"                 # the issue's row: recommended preset
step --bf16 --batch_size "$batch" --front_end trained
step --batch_size "$batch"                        # without bf16
step --bf16 --alone --batch_size "$large_batch"   # share of the chip; the peer has no memory for it
# Left out of a dry run: a CPU compiles for minutes.
[ "$device" = cpu ] || step --bf16 --alone --batch_size "$large_batch" --compile
run frozen_epochs.py --rounds 1 --epochs "$epochs" --clips "$clips"
exit "$failed"

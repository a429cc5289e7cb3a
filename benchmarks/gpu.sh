#!/usr/bin/env bash
# Every GPU row, in one command of under eight minutes on one large GPU (80 GB):
#   benchmarks/gpu.sh
# Dry run of the same lines on a CPU, at toy size:
#   DEVICE=cpu SHAPE=TOY LARGE_BATCH=4 EPOCHS=2 RESULTS=/tmp/dry.csv benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD"
device="${DEVICE:-cuda}" shape="${SHAPE:-LARGE}" batch="${LARGE_BATCH:-128}" epochs="${EPOCHS:-20}"
rounds="${ROUNDS:-10}" results="${RESULTS:-results/benchmarks.csv}"

step() {
  timeout 150 python benchmarks/train_step.py --shape "$shape" --device "$device" --rounds "$rounds" \
    --results "$results" "$@" || echo "gpu.sh: failed: train_step.py $*" >&2
}

step --bf16                                       # the issue's row: batch 16, recommended preset
step --bf16 --front_end trained
step                                              # without bf16
step --bf16 --alone --batch_size "$batch"         # share of the chip; the peer has no memory for it
step --bf16 --alone --batch_size "$batch" --compile
timeout 180 python benchmarks/frozen_epochs.py --shape "$shape" --device "$device" --epochs "$epochs" --clips 400 \
  --rounds 1 --results "$results" || echo "gpu.sh: failed: frozen_epochs.py" >&2

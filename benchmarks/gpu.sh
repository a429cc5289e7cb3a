#!/usr/bin/env bash
# Every GPU row, most important first, in some eight minutes on one large GPU (80 GB); no network is needed:
#   benchmarks/gpu.sh
# Each row is written as soon as it is measured: what there is when it is cut off can be used. TOTAL seconds are its
# own limit (0: none); LIMIT is each row's. At the end stands the table of the rows. Exit code 1 where a row failed.
# Dry run of the same lines on a CPU, at toy size:
#   DEVICE=cpu SHAPE=TOY BATCH=2 LARGE_BATCH=4 EPOCHS=1 CLIPS=32 SMALL_CLIPS=32 ROUNDS=1 RESULTS=/tmp/dry.csv benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD"
device="${DEVICE:-cuda}" shape="${SHAPE:-LARGE}" batch="${BATCH:-16}" large_batch="${LARGE_BATCH:-128}"
epochs="${EPOCHS:-3}" clips="${CLIPS:-2000}" rounds="${ROUNDS:-10}" results="${RESULTS:-results/benchmarks.csv}"
small_clips="${SMALL_CLIPS:-24000}" limit="${LIMIT:-120}" total="${TOTAL:-0}"
failed=0

run() {
  if [ "$total" -gt 0 ] && [ "$SECONDS" -ge "$total" ]; then
    echo "gpu.sh: no time left for: $*" >&2
    return
  fi
  timeout "$limit" python "benchmarks/$1" --shape "$shape" --device "$device" --results "$results" "${@:2}" ||
    { echo "gpu.sh: failed: $*" >&2; failed=1; }
}

graph=(); [[ "$device" == cuda* ]] && graph=(--graph)
step() { run train_step.py --rounds "$rounds" --bf16 "${graph[@]}" "$@"; }

step --batch_size "$batch" --masks                                         # wanted: 4.5 times the peer
step --batch_size "$batch" --masks --front_end kept                        # 6 times
step --batch_size "$large_batch" --masks --alone                           # 40 % of a matrix product
run train_command.py --rounds 1 --clips "$clips" --epochs "$epochs"        # 4 times
limit=$((2 * limit)) run small_models.py --rounds 1 --clips "$small_clips" --epochs "$((epochs < 2 ? 2 : epochs))" \
  --recipes baselines/log_mel_cnn emogator/filterbank                      # 5,000 and 2,000 clips a second
step --batch_size "$large_batch" --masks --alone --front_end kept
run train_step.py --rounds "$rounds" --bf16 --batch_size "$batch" --masks --alone    # eager, for comparison
run score_folder.py --rounds 1 --clips "$clips" --ours torch-bf16
run frozen_epochs.py --rounds 1 --epochs "$epochs" --clips "$((clips < 128 ? 32 : clips / 4))"  # it takes 32 or more
python benchmarks/table.py "$results"
exit "$failed"

#!/usr/bin/env bash
# Every GPU row, most important first, in some eight minutes on one large GPU (80 GB); no network is needed:
#   benchmarks/gpu.sh
# Each row is written as soon as it is measured: what there is when it is cut off can be used. TOTAL seconds are its
# own limit (0: none); LIMIT is each line's. At the end stands the table of the rows. Exit code 1 where a row failed.
# Dry run of the same lines on a CPU, at toy size:
#   DEVICE=cpu SHAPE=TOY BATCH=2 LARGE_BATCH=4 EPOCHS=1 CLIPS=32 SMALL_CLIPS=32 ROUNDS=1 RESULTS=/tmp/dry.csv benchmarks/gpu.sh
source "$(dirname "$0")/rows.sh"
device="${DEVICE:-cuda}" shape="${SHAPE:-LARGE}" batch="${BATCH:-16}" large_batch="${LARGE_BATCH:-128}"
epochs="${EPOCHS:-3}" clips="${CLIPS:-2000}" small_clips="${SMALL_CLIPS:-24000}" rounds="${ROUNDS:-10}"
limit="${LIMIT:-120}" total="${TOTAL:-0}"

graph=(); [[ "$device" == cuda* ]] && graph=(--graph)
where=(--shape "$shape" --device "$device")
eager() { run train_step.py "${where[@]}" --rounds "$rounds" --bf16 --masks "$@"; }
step() { eager "${graph[@]}" "$@"; }

step --batch_size "$batch" --front_end frozen kept                         # wanted: 4.5 and 6 times the peer
step --batch_size "$large_batch" --alone --front_end frozen kept           # 40 % of a matrix product
run train_command.py "${where[@]}" --rounds 1 --clips "$clips" --epochs "$epochs"        # 4 times
limit=$((2 * limit)) run small_models.py "${where[@]}" --rounds 1 --clips "$small_clips" \
  --epochs "$((epochs < 2 ? 2 : epochs))" --recipes baselines/log_mel_cnn emogator/filterbank  # 5,000 and 2,000 clips a second
eager --batch_size "$batch" --alone                                        # without a graph, for comparison
run score_folder.py "${where[@]}" --rounds 1 --clips "$clips" --ours torch-bf16
run frozen_epochs.py "${where[@]}" --rounds 1 --epochs "$epochs" --clips "$((clips < 128 ? 32 : clips / 4))"  # it takes 32 or more
table

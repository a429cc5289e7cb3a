#!/usr/bin/env bash
# The GPU rows, most important first, in ten minutes at most on one large GPU (80 GB); no network is needed:
#   benchmarks/gpu.sh
# Each row is written as soon as it is measured, so what is there when the script is cut off can be used. A row may take
# LIMIT seconds, and all of them TOTAL (0: no limit); what is not reached by then is left out and said. At the end
# stands the table of the rows. Exit code 1 where a row failed. What the machine needs: benchmarks/README.md.
# Dry run of the same lines on a CPU, at toy size:
#   DEVICE=cpu SHAPE=TOY BATCH=2 LARGE_BATCH=4 EPOCHS=1 CLIPS=32 SMALL_CLIPS=24 ROUNDS=1 RESULTS=/tmp/dry.csv benchmarks/gpu.sh
source "$(dirname "$0")/rows.sh"
device="${DEVICE:-cuda}" shape="${SHAPE:-LARGE}" batch="${BATCH:-16}" large_batch="${LARGE_BATCH:-128}"
epochs="${EPOCHS:-3}" clips="${CLIPS:-2000}" small_clips="${SMALL_CLIPS:-24000}" rounds="${ROUNDS:-10}"
limit="${LIMIT:-180}" total="${TOTAL:-600}"
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"  # with several GPUs, Transformers would use all of them

graph=(); [[ "$device" == cuda* ]] && graph=(--graph)
where=(--shape "$shape" --device "$device")
eager() { run train_step.py "${where[@]}" --rounds "$rounds" --bf16 --masks "$@"; }
step() { eager "${graph[@]}" "$@"; }

step --batch_size "$batch" --front_end frozen kept                         # wanted: 4.5 and 6 times the peer
step --batch_size "$large_batch" --alone                                   # 40 % of a matrix product
run train_command.py "${where[@]}" --rounds 1 --clips "$clips" --epochs "$epochs"        # 4 times
run small_models.py "${where[@]}" --rounds 1 --clips "$small_clips" --alone \
  --epochs "$((epochs < 2 ? 2 : epochs))" --recipes baselines/log_mel_cnn emogator/filterbank  # 5,000 and 2,000 clips a second
eager --batch_size "$batch" --alone                                        # without a graph, for comparison
run score_folder.py "${where[@]}" --rounds 1 --clips "$clips" --ours torch-bf16
run frozen_epochs.py "${where[@]}" --rounds 1 --epochs "$epochs" --clips "$((clips < 128 ? 32 : clips / 4))"  # it takes 32 or more
table

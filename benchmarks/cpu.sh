#!/usr/bin/env bash
# The CPU rows, most important first, in six minutes at most; what is not reached by then is left out and said:
#   benchmarks/cpu.sh
# SHAPE=LARGE needs 30 GB of memory. TOTAL seconds are its limit (0: none). Exit code 1 where a row failed.
# At toy size: SHAPE=TOY BATCH=2 EPOCHS=1 CLIPS=16 RESULTS=/tmp/dry.csv benchmarks/cpu.sh
source "$(dirname "$0")/rows.sh"
shape="${SHAPE:-BASE}" batch="${BATCH:-16}" epochs="${EPOCHS:-2}" clips="${CLIPS:-100}" rounds="${ROUNDS:-1}"
total="${TOTAL:-360}" limit="${LIMIT:-360}"

run train_step.py --shape "$shape" --batch_size "$batch" --rounds "$rounds" --bf16 --front_end kept frozen
run latency_cpu.py --shape "$shape" --rounds "$rounds" --ours bf16
run train_command.py --rounds "$rounds" --clips "$clips" --epochs "$epochs"
run score_folder.py --rounds "$rounds" --clips "$clips" --ours torch-bf16
run import_time.py --rounds "$rounds" --warmup 0
run data_pipeline.py --rounds "$rounds" --clips "$clips"
table

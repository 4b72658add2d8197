#!/bin/sh
# Trains the model (or goes on where it was killed), evaluates it, and writes results.md and results.png beside this file.
# Usage, from the root of the repository:  JAXPRM_DATA=FOLDER experiments/prm800k_from_scratch/run.sh [RUN]
set -eu
: "${JAXPRM_DATA:?must name the folder that holds train/ and dev_eval/}"
here=$(dirname "$0")
run=${1:-runs/prm800k}
bin=.venv/bin

"$bin/jaxprm" train prm/prm800k --run "$run"
"$bin/jaxprm" bench steps --model "$run" \
    --data dev_eval/prm800k_phase1_test_expanded.jsonl.gz \
    --data dev_eval/prmbench_test.jsonl.gz \
    --data dev_eval/parc.jsonl.gz \
    --data dev_eval/mr_ben_coding.jsonl.gz \
    --data dev_eval/bigbench_mistake_tracking_shuffled_objects.jsonl.gz \
    --baselines-from train/prm800k_phase1_train_expanded.jsonl.gz \
    --baselines-from train/prm800k_train1818.jsonl.gz \
    --drop-empty --overlong drop --json "$run/bench.json" --plot "$here/results.png"
"$bin/python" "$here/tables.py" "$run" > "$here/results.md.tmp"
mv "$here/results.md.tmp" "$here/results.md"

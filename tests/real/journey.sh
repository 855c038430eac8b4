#!/bin/sh
# The training of a first customer on a real model, in two stages: LORAGATE_REAL_MODEL=… tests/real/journey.sh OUT
# Resumes when it is run again. The scores are in OUT/adapter/training.json: `scores` (calls) and `general` (support).
set -eu
out=${1:?"give a folder"}
python=${PYTHON:-.venv/bin/python}
"$python" tests/real/journey_data.py "$out/data"
exec "$python" -m server.cli train --base "$LORAGATE_REAL_MODEL" --out "$out/adapter" \
  --data "$out/data/support.jsonl" --then "$out/data/calls.jsonl" --then-rate 0.5 --replay-ratio 0.15 \
  --held-out "$out/data/calls-held-out.jsonl" --general "$out/data/support-held-out.jsonl" \
  --epochs 1 --batch-samples 8 --max-length-tokens 1024 --max-new-tokens 96 --measure 40 --evaluate-turns 0 \
  --evaluate-every -1 --checkpoint-every 10

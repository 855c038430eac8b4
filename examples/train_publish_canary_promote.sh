#!/usr/bin/env bash
# The whole life of an adapter on the demo server: train, publish, canary, promote, roll back.
# It trains a few steps only, to be quick; `loragate` must be on the PATH (make setup puts it into .venv/bin).
set -euo pipefail

export LORAGATE_URL="${LORAGATE_URL:-http://127.0.0.1:8000}"
export LORAGATE_KEY=demo-admin # an operator's key; a tenant admin's key does as well
repository="$(cd "$(dirname "$0")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

train() { # train NAME STEPS [options]: writes $work/NAME and publishes it as a version of acme-tutorial
  loragate train --base demo --data "$repository/demo/data/acme-support.jsonl" --out "$work/$1" \
    --max-steps "$2" --batch-samples 4 --micro-batch-samples 4 --held-out-share 0.02 --measure 2 --evaluate-turns 2 \
    --publish "$LORAGATE_URL" --publish-as acme/tutorial "${@:3}"
}

echo "== Train and publish a first version: it gets all the traffic"
train first 5

echo "== Train and publish a better one as a canary, with 10 % of the traffic"
train second 10 --canary 10
loragate adapter show acme tutorial

echo "== Ask it; acme-tutorial@2 names the new version, whatever the split"
curl --fail --silent --show-error "$LORAGATE_URL/v1/chat/completions" \
  --header "Authorization: Bearer demo-acme" --header "Content-Type: application/json" \
  --data '{"model": "acme-tutorial@2", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 30}'
echo

echo "== Promote it, then go back to the version that had the traffic before, then remove the adapter"
loragate adapter promote acme tutorial 2
loragate adapter rollback acme tutorial
loragate adapter remove --yes acme tutorial

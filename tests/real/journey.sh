#!/bin/bash
# Runs the commands of docs/jobs/train-your-first-adapter.md as they stand on the page, with a real model:
#
#   LORAGATE_REAL_MODEL=… tests/real/journey.sh OUT [learn|serve]
#
# learn: data, check and both trainings (an interrupted one goes on, a finished one is kept). serve: the rest.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
page=$root/docs/jobs/train-your-first-adapter.md
out=${1:?"give a folder"}
part=${2:-all}
export BASE=$LORAGATE_REAL_MODEL PYTHONPATH=$root PATH=$root/.venv/bin:$PATH
unset LORAGATE_REAL_MODEL
mkdir -p "$out"
cd "$out"

# The bash block with the number $1.
block() { awk -v wanted="$1" '/^```bash/ {n++; shown = n == wanted; next} /^```/ {shown = 0} shown' "$page"; }

# Runs a block in this shell, so that what it exports stays, and says how long it took.
run() {
  local begun=$SECONDS
  eval "$(block "$1" | sed "s#http://127.0.0.1:8000#${url:-}#")"
  echo "== block $1 took $((SECONDS - begun)) s" >&2
}

if [ "$part" != serve ]; then
  run 1
  run 2
  [ -f out/voice/training.json ] || run 3
  [ -f out/assistant/training.json ] || run 4
fi
if [ "$part" != learn ]; then
  rm -rf server
  export LORAGATE_DATA_DIR=$PWD/server
  port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  url=http://127.0.0.1:$port
  LORAGATE_PORT=$port bash -c "exec $(block 5)" >serve.log 2>&1 &
  server=$!
  trap 'kill $server; wait $server || true' EXIT
  until curl -sf "$url/ready" >/dev/null; do
    kill -0 $server 2>/dev/null || { tail serve.log; exit 1; }
    sleep 1
  done
  run 6
  run 7
  run 8
fi

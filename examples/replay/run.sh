#!/usr/bin/env bash
# A guide of twenty tasks of which three fail; the service is repaired, and the three run again;
# then one prompt is another one, and exactly what depends on it runs in a fork.
#
#   examples/replay/run.sh          with target/release/dandori, or the program in $DANDORI
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dandori=$(realpath "${DANDORI:-$here/../../target/release/dandori}")
# On a database of its own, whatever the shell is set up for.
unset DATABASE_URL DANDORI_SERVER DANDORI_TOKEN
folder=$(mktemp -d)
cd "$folder"
cp "$here/project.yaml" .
touch answers
python3 "$here/service.py" answers repaired >port &
service=$!
trap 'kill $service; rm -rf "$folder"' EXIT
until [ -s port ]; do sleep 0.05; done
DANDORI_LLM_URL=http://127.0.0.1:$(cat port)
DANDORI_LLM_MODEL=tiny
export DANDORI_LLM_URL DANDORI_LLM_MODEL

say() { printf '\n$ %s\n' "$*"; }
asked() { printf 'questions to the model: %s\n' "$(wc -l <answers)"; : >answers; }

say dandori run project.yaml
ended=0
"$dandori" run project.yaml 2>/dev/null || ended=$?
[ "$ended" = 1 ]
asked

say dandori replay last --plan
"$dandori" replay last --plan 2>&1
touch repaired
say "dandori replay last --yes --wait --reason 'the service knows them now'"
"$dandori" replay last --yes --wait --reason 'the service knows them now' >/dev/null 2>&1
"$dandori" list 2>/dev/null | awk '{ print $2, $3, $4, $5 }'
asked

sed -i 's/What is allowed/What is allowed, and why/' project.yaml
say dandori fork last --document project.yaml --plan
"$dandori" fork last --document project.yaml --plan 2>&1
say dandori fork last --document project.yaml --yes --wait
"$dandori" fork last --document project.yaml --yes --wait >/dev/null 2>&1
asked

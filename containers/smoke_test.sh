#!/bin/bash
# smoke_test.sh torch|jax [any|gpu]: a tiny synthetic cohort, prepared, trained on and evaluated, in under a minute.
# The images' %test and slurm/smoke.sh run it. With `gpu` it fails if the framework computes on the CPU.
set -euo pipefail
case ${1:-} in -h | --help) exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0" ;; esac
case ${1:-} in
  torch | jax) framework=$1 device=${2:-any} ;;
  *) echo "smoke_test.sh: say which framework: smoke_test.sh torch|jax [any|gpu]" >&2; exit 2 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
anatobench phantom --format ratic --size tiny --cases 12 --workers 1 --out raw
anatobench prepare --dataset ratic --size tiny --raw raw --masks raw/masks --workers 0 --store store --verify
anatobench train --task ratic --store store --model r3d_18 --framework "$framework" --steps 2 --out run --json >train.json
if [ "$device" = gpu ] && ! grep -q '"kind": "gpu"' train.json; then
  echo "$framework computes on the CPU though the job has a GPU: is the node's driver too old, or --nv missing?" >&2
  exit 1
fi
anatobench evaluate run --json >evaluation.json
echo "$framework: prepared, trained and evaluated" >&2

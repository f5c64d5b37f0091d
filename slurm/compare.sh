#!/bin/bash
#SBATCH --job-name=compare
#SBATCH --output=%x-%j.log
#SBATCH --nodes=1
#SBATCH --exclusive
# At most 1 GPU of a node.
#
# What a training step costs in PyTorch and in JAX, and how they compare, on one GPU of the node given:
#     sbatch slurm/compare.sh --model swin3d_t --geometry chest --precision bf16
# All options of `anatobench bench step` can follow but those that say where a framework is: each comes from its image
# (or its virtual environment: ANATOBENCH_VENV_TORCH, ANATOBENCH_VENV_JAX, else ANATOBENCH_VENV). Both take turns on the
# same GPU and the same bytes. One record with the ratio and its interval goes to compare-JOBID.json in the folder of
# the runs.
set -euo pipefail
repository=${ANATOBENCH_REPOSITORY:-${SLURM_SUBMIT_DIR:-$PWD}}
if [ ! -r "$repository/slurm/job.sh" ]; then
  echo "$repository: not AnatoBench's repository: submit from there, or set ANATOBENCH_REPOSITORY" >&2
  exit 2
fi
# shellcheck source=slurm/job.sh
source "$repository/slurm/job.sh"

load_site
read_allocation
mkdir -p "$ANATOBENCH_RUNS" 2>/dev/null || fail "ANATOBENCH_RUNS=$ANATOBENCH_RUNS: cannot be written"
record=$(realpath "$ANATOBENCH_RUNS")/compare-$SLURM_JOB_ID.json
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_ON_NODE}"
# Two processes share the GPU: XLA must not take most of its memory at its start.
export XLA_PYTHON_CLIENT_PREALLOCATE=false XLA_PYTHON_CLIENT_MEM_FRACTION=0.95

work=$(mktemp -d) arms=()
export TMPDIR="$work" # where the batch lies, which all of them must see
trap 'kill "${arms[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 143' TERM USR1

describe() { # where a framework runs, for the record
  local image=ANATOBENCH_IMAGE_${1^^} sum=null
  if [ -z "${!image}" ]; then
    printf '{"python": "%s"}' "$(PATH=${suite[1]#PATH=} command -v python)"
    return
  fi
  if [ -f "${!image}" ]; then sum=\"$(sha256sum "${!image}" | head -c 64)\"; fi
  printf '{"image": "%s", "sha256": %s}' "$(realpath "${!image}")" "$sum"
}

for framework in torch jax; do in_suite "$framework" "$work"; done # a missing one is told before anything starts
started=()
cd "$work" # not in the repository, whose code Python would take before the image's
for framework in torch jax; do
  in_suite "$framework" "$work"
  mkdir "$framework"
  mkfifo "$framework/requests" "$framework/answers"
  describe "$framework" >"$framework/home.json"
  "${suite[@]}" python -m anatobench.bench.arm_process \
    <"$framework/requests" >"$framework/answers" 2>"$framework/log" &
  arms+=($!)
  started+=(--started "$framework=$work/$framework")
done
in_suite torch "$work"
"${suite[@]}" anatobench bench step "${started[@]}" "$@" --json >"$work/record.json" &
arms+=($!)
wait $! && status=0 || status=$?
if [ -s "$work/record.json" ]; then
  mv "$work/record.json" "$record"
  echo "$record" >&2
fi
exit "$status"

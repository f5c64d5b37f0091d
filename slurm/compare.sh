#!/bin/bash
#SBATCH --job-name=compare
#SBATCH --output=%x-%j.log
#SBATCH --nodes=1
#SBATCH --exclusive
# At most 1 GPU of a node, or as many as its own --gpus says.
#
# What a training step costs in PyTorch and in JAX, and how they compare, on one GPU of the node given, or on N of them
# with data parallelism:
#     sbatch slurm/compare.sh --model swin3d_t --geometry chest --precision bf16 [--gpus N --batch-size B]
# All options of `anatobench bench step` can follow but those that say where a framework is: each comes from its image
# (or its virtual environment: ANATOBENCH_VENV_TORCH, ANATOBENCH_VENV_JAX, else ANATOBENCH_VENV). Both take turns on the
# same GPUs and the same bytes. One record with the ratio and its interval goes to compare-JOBID.json in the folder of
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
work=$(mktemp -d)
export TMPDIR="$work" # where the batch lies, which all of them must see
served=()
trap 'end_arms; rm -rf "$work"' EXIT
serve_arms "$work"
in_suite torch "$work"
cd "$work" # not in the repository, whose code Python would take before the image's
run_here "${suite[@]}" anatobench bench step "${served[@]}" "$@" --json >"$work/record.json"
if [ -s "$work/record.json" ]; then
  mv "$work/record.json" "$record"
  echo "$record" >&2
fi
summarise "$status"
exit "$status"

#!/bin/bash
#SBATCH --job-name=gpu_suite
#SBATCH --output=%x-%j.log
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=20
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@60
# At most 1 GPU of a node.
#
# Everything that one GPU of the node given is asked, in about ten minutes (benchmarks/gpu_suite.sh):
#     sbatch --gpus-per-node 1 slurm/gpu_suite.sh [--geometry abdomen] [--precision tf32]
# Its options can follow, but --out: the record goes to gpu_suite-JOBID.json in the folder of the runs. A job that is
# preempted goes on with what is missing. Each framework comes from its image, or from its virtual environment
# (ANATOBENCH_VENV_TORCH, ANATOBENCH_VENV_JAX); parity, which one process proves, is then left out. Where none of these
# is set, both come from ANATOBENCH_VENV, and parity is climbed, too.
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
runs=$(realpath "$ANATOBENCH_RUNS")
words=("$@" --continue --out "$runs/gpu_suite-$SLURM_JOB_ID.json")

if [ -n "$ANATOBENCH_IMAGE_TORCH$ANATOBENCH_IMAGE_JAX$ANATOBENCH_VENV_TORCH$ANATOBENCH_VENV_JAX" ]; then
  work=$(mktemp -d)
  export TMPDIR="$work" # where batches lie, which all of them must see
  served=()
  trap 'end_arms; rm -rf "$work"' EXIT
  serve_arms "$work" "$runs"
  in_suite torch "$work" "$runs"
  run_here "${suite[@]}" env PYTHON=python bash "$repository/benchmarks/gpu_suite.sh" "${served[@]}" "${words[@]}"
  finish
fi

one_task_with_both "an image or environment for each"
run_step "${srun_options[@]}" env "PATH=$venv/bin:$PATH" "$repository/benchmarks/gpu_suite.sh" "${words[@]}"
finish

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
# preempted goes on with what is missing. The frameworks take turns, so both must be in one environment: the virtual
# environment of ANATOBENCH_VENV, whatever images are set, for an image holds one of them (slurm/compare.sh takes these).
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
venv=${ANATOBENCH_VENV:-$repository/.venv}
"$venv/bin/python" -c 'import torch, torchvision, jax, flax' 2>/dev/null ||
  fail "$venv: the GPU suite needs PyTorch and JAX in one virtual environment: set ANATOBENCH_VENV to one with both"
if [ "$gpus_per_node" -gt 0 ]; then gpus_per_node=1; fi
tasks_per_node=1 nodes=1 tasks=1
mkdir -p "$ANATOBENCH_RUNS" 2>/dev/null || fail "ANATOBENCH_RUNS=$ANATOBENCH_RUNS: cannot be written"
set_srun_options
run_step "${srun_options[@]}" env "PATH=$venv/bin:$PATH" "$repository/benchmarks/gpu_suite.sh" \
  "$@" --continue --out "$ANATOBENCH_RUNS/gpu_suite-$SLURM_JOB_ID.json"
finish

#!/bin/bash
#SBATCH --job-name=auc_study
#SBATCH --output=%x-%j.log
#SBATCH --nodes=1
#SBATCH --time=30
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
# At most 1 GPU of a node.
#
# An AUC study on one node (benchmarks/gpu_auc.sh): declared before it runs, as many seeds as the time gives:
#     sbatch --gpus-per-node 1 --time 30 slurm/auc_study.sh --out DIR [--minutes M] [--plan FILE | SETTINGS]
# A job that is preempted goes on where it was, and so does another with the same --out. It needs an environment with both
# frameworks (ANATOBENCH_VENV). For a study of many nodes, or one image per framework, give its runs to Slurm one by one:
#     anatobench experiments auc --plan FILE --out DIR --submit
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
one_task_with_both "submit the runs one by one (anatobench experiments auc --submit)"
run_step "${srun_options[@]}" env "PATH=$venv/bin:$PATH" "$repository/benchmarks/gpu_auc.sh" "$@"
finish

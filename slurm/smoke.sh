#!/bin/bash
#SBATCH --job-name=smoke
#SBATCH --output=%x-%j.log
#SBATCH --nodes=1
#SBATCH --time=15
# At most 1 GPU of a node.
#
# Does the suite work on a node of this cluster? Prepares, trains and evaluates a tiny synthetic cohort in one minute:
#     sbatch [--gpus-per-node 1] slurm/smoke.sh [torch] [jax]
# With a GPU in the job it fails if a framework computes on the CPU: a driver too old for the image, most often.
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
frameworks=("${@:-torch}")
for framework in "${frameworks[@]}"; do
  case $framework in torch | jax) ;; *) fail "$framework: torch or jax" ;; esac
  in_suite "$framework"
done
tasks_per_node=1 tasks=$nodes
device=any
if [ "$gpus_per_node" -gt 0 ]; then device=gpu gpus_per_node=1; fi
set_srun_options
failed=0
for framework in "${frameworks[@]}"; do
  in_suite "$framework"
  run_step "${srun_options[@]}" "${suite[@]}" bash "$repository/containers/smoke_test.sh" "$framework" "$device"
  if [ "$status" != 0 ]; then failed=$status; fi
done
summarise "$failed"
exit "$failed"

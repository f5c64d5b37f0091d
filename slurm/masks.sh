#!/bin/bash
#SBATCH --job-name=masks
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
#SBATCH --array=0-7
#SBATCH --nodes=1
#SBATCH --ntasks=1
# Organ masks by TotalSegmentator as a job array, one shard per job, with one process per GPU of the job:
#     sbatch --gpus-per-node 1 [--array=0-31%8] slurm/masks.sh --dataset ratic --raw RAW --out MASKS
# Without GPUs a job computes on its cores, which takes many times longer. A job that is killed or preempted is queued
# again and goes on where it was. To repeat single shards of an array of 32:
#     ANATOBENCH_SHARDS=32 sbatch --array=5,17 slurm/masks.sh ...
# Where nodes have no network, put TotalSegmentator's weights in place first: `anatobench masks` says which and where.
set -euo pipefail
repository=${ANATOBENCH_REPOSITORY:-${SLURM_SUBMIT_DIR:-$PWD}}
if [ ! -r "$repository/slurm/job.sh" ]; then
  echo "$repository: not AnatoBench's repository: submit from there, or set ANATOBENCH_REPOSITORY" >&2
  exit 2
fi
# shellcheck source=slurm/job.sh
source "$repository/slurm/job.sh"

load_site
read_shard slurm/masks.sh
read_allocation
in_suite masks
tasks_per_node=1 tasks=1
set_srun_options
run_step "${srun_options[@]}" "${suite[@]}" anatobench masks --gpus "$gpus_per_node" "$@" --shard "$shard/$shards"
finish

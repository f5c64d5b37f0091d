#!/bin/bash
#SBATCH --job-name=prepare
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
#SBATCH --array=0-7
#SBATCH --nodes=1
#SBATCH --ntasks=1
# At most 0 GPUs of a node.
#
# Prepare a store as a job array, one shard per job, on CPUs:
#     sbatch [--array=0-31%8] [--cpus-per-task 8] slurm/prepare.sh --dataset ratic --raw RAW --masks MASKS --store STORE
# A job that is killed or preempted is queued again and goes on where it was. To repeat single shards of an array of 32:
#     ANATOBENCH_SHARDS=32 sbatch --array=5,17 slurm/prepare.sh ...
set -euo pipefail
repository=${ANATOBENCH_REPOSITORY:-${SLURM_SUBMIT_DIR:-$PWD}}
if [ ! -r "$repository/slurm/job.sh" ]; then
  echo "$repository: not AnatoBench's repository: submit from there, or set ANATOBENCH_REPOSITORY" >&2
  exit 2
fi
# shellcheck source=slurm/job.sh
source "$repository/slurm/job.sh"

# Preparing needs no framework: either image will do.
framework=torch
load_site
if [ -z "$ANATOBENCH_IMAGE_TORCH" ] && [ -n "$ANATOBENCH_IMAGE_JAX" ]; then framework=jax; fi
read_shard slurm/prepare.sh
read_allocation
in_suite "$framework"
# A shard has one writer, whatever the job was given: SBATCH_GPUS_PER_NODE in the environment, or several tasks.
gpus_per_node=0 nodes=1 tasks_per_node=1 tasks=1
cores=$SLURM_CPUS_ON_NODE
set_srun_options
run_step "${srun_options[@]}" "${suite[@]}" anatobench prepare \
  --workers "$cores" "$@" --shard "$shard/$shards"
finish

#!/bin/bash
#SBATCH --job-name=ct_rate
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# Train on CT-RATE, one process per GPU, on however many nodes and GPUs the job is given:
#     sbatch [--nodes N] [--gpus-per-node G] slurm/train_ct_rate.sh --framework jax --model swin3d_t [train's options]
# slurm/train.sh says the rest.
repository=${ANATOBENCH_REPOSITORY:-${SLURM_SUBMIT_DIR:-$PWD}}
if [ ! -r "$repository/slurm/train.sh" ]; then
  echo "$repository: not AnatoBench's repository: submit from there, or set ANATOBENCH_REPOSITORY" >&2
  exit 2
fi
exec bash "$repository/slurm/train.sh" ct_rate "$@"

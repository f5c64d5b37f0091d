#!/bin/bash
#SBATCH --job-name=ratic
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# Train on RATIC, one process per GPU, on however many nodes and GPUs the job is given:
#     sbatch [--nodes N] [--gpus-per-node G] slurm/train_ratic.sh --framework jax --model swin3d_t [train's options]
# slurm/train.sh says the rest.
repository=${ANATOBENCH_REPOSITORY:-${SLURM_SUBMIT_DIR:-$PWD}}
if [ ! -r "$repository/slurm/train.sh" ]; then
  echo "$repository: not AnatoBench's repository: submit from there, or set ANATOBENCH_REPOSITORY" >&2
  exit 2
fi
exec bash "$repository/slurm/train.sh" ratic "$@"

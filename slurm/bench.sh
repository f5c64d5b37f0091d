#!/bin/bash
#SBATCH --job-name=bench
#SBATCH --output=%x-%j.log
#SBATCH --nodes=1
#SBATCH --exclusive
# At most 1 GPU of a node.
#
# What a training step costs on one GPU of the node given, in both frameworks, one after the other:
#     sbatch [--gpus-per-node 1] slurm/bench.sh --model swin3d_t --geometry chest --precision bf16
# All options of `anatobench bench step` can follow but --framework; --model and --geometry default to r3d_18 and
# abdomen. One JSON record per framework goes to bench-JOBID-FRAMEWORK.json in the folder of the runs.
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
if [ "$gpus_per_node" -gt 0 ]; then gpus_per_node=1; fi
tasks_per_node=1 nodes=1 tasks=1
mkdir -p "$ANATOBENCH_RUNS" 2>/dev/null || fail "ANATOBENCH_RUNS=$ANATOBENCH_RUNS: cannot be written"
for framework in torch jax; do in_suite "$framework"; done
set_srun_options
failed=0
for framework in torch jax; do
  in_suite "$framework"
  record=$ANATOBENCH_RUNS/bench-$SLURM_JOB_ID-$framework.json
  run_step "${srun_options[@]}" "${suite[@]}" anatobench bench step --framework "$framework" \
    --model r3d_18 --geometry abdomen "$@" --json >"$record"
  if [ "$status" = 0 ]; then echo "$record" >&2; else failed=$status; fi
done
exit "$failed"

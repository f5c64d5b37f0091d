#!/bin/bash
#SBATCH --job-name=experiments
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# Train and evaluate runs of `anatobench experiments` as a job array, one run per element, one task per GPU of it.
# `anatobench experiments grid submit` (and `auc --submit`) writes PLAN and submits; by hand, from the repository:
#     sbatch --array=0-31%8 [--gpus-per-node G] slurm/experiments.sh PLAN
# PLAN has a line per element: task, folder of the run, and train's options, separated by tabs. A run that was evaluated
# is passed by; one that is killed or preempted is queued again and goes on where it was. slurm/train.sh says the rest.
set -euo pipefail
case ${1:-} in -h | --help) exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0" ;; esac
repository=${ANATOBENCH_REPOSITORY:-${SLURM_SUBMIT_DIR:-$PWD}}
if [ ! -r "$repository/slurm/train.sh" ]; then
  echo "$repository: not AnatoBench's repository: submit from there, or set ANATOBENCH_REPOSITORY" >&2
  exit 2
fi
fail() {
  echo "experiments.sh: $*" >&2
  exit 2
}

plan=${1:-}
[ $# = 1 ] || fail "give the plan, and nothing else: sbatch --array=0-N slurm/experiments.sh PLAN"
[ -f "$plan" ] && [ -r "$plan" ] || fail "$plan: no such plan: make it with \`anatobench experiments grid submit\`"
[ -n "${SLURM_ARRAY_TASK_ID:-}" ] || fail "not a job array: sbatch --array=0-N slurm/experiments.sh PLAN"
line=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$plan")
[ -n "$line" ] || fail "$plan: has no line $((SLURM_ARRAY_TASK_ID + 1)) for array element $SLURM_ARRAY_TASK_ID"
IFS=$'\t' read -ra words <<<"$line"
task=${words[0]} run=${words[1]}
if [ -e "$run/evaluation_test.json" ]; then
  echo "$run: done before" >&2
  exit 0
fi
exec bash "$repository/slurm/train.sh" "$task" --evaluate --out "$run" "${words[@]:2}"

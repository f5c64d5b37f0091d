#!/bin/bash
#SBATCH --job-name=scaling
#SBATCH --output=%x-%j.log
#SBATCH --exclusive
#SBATCH --time=60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@60
# As many nodes as its own --nodes says.
#
# Weak and strong scaling of training steps over nodes, and the bandwidth of adding up gradients, on all GPUs of each node
# or as many as sbatch's --gpus-per-node says:
#     sbatch slurm/scaling.sh --nodes 1,2,4 --model swin3d_t --geometry chest --precision bf16 [--framework torch,jax]
# (Without `source slurm/site.conf`: sbatch --nodes 4 slurm/scaling.sh --nodes 1,2,4 ...) One job measures all counts on
# its nodes, one process first, the frameworks one after the other at each count. Options of `anatobench bench scaling`
# can follow; --batch-size counts the cases per GPU (weak) or of all together (strong), so all GPUs must divide it. The
# folder of the runs gets scaling-JOBID-FRAMEWORK.json and scaling-JOBID.html with the plots. A job that is preempted or
# near its time limit is queued again and measures what is missing; after one that was cancelled or failed, the same
# command with --continue JOBID does.
set -euo pipefail
repository=${ANATOBENCH_REPOSITORY:-${SLURM_SUBMIT_DIR:-$PWD}}
if [ ! -r "$repository/slurm/job.sh" ]; then
  echo "$repository: not AnatoBench's repository: submit from there, or set ANATOBENCH_REPOSITORY" >&2
  exit 2
fi
# shellcheck source=slurm/job.sh
source "$repository/slurm/job.sh"

read_options() { # sets counts, frameworks and the job whose points are taken up; leaves the other options in rest
  counts=1 frameworks=torch,jax job=$SLURM_JOB_ID rest=()
  while [ $# -gt 0 ]; do
    case $1 in
      --nodes=*) counts=${1#*=} ;;
      --framework=*) frameworks=${1#*=} ;;
      --continue=*) job=${1#*=} ;;
      --nodes | --framework | --continue)
        [ $# -gt 1 ] || fail "$1: its value is missing"
        case $1 in --nodes) counts=$2 ;; --framework) frameworks=$2 ;; --continue) job=$2 ;; esac
        shift
        ;;
      *) rest+=("$1") ;;
    esac
    shift
  done
  [[ $counts =~ ^[1-9][0-9]*(,[1-9][0-9]*)*$ ]] || fail "--nodes $counts: numbers of nodes, such as 1,2,4"
  counts=$(printf '%s\n' "${counts//,/ }" | tr ' ' '\n' | sort -n -r -u) # what cannot be shared out is told at once
  [[ $frameworks =~ ^(torch|jax)(,(torch|jax))?$ ]] || fail "--framework $frameworks: torch, jax or torch,jax"
  frameworks=${frameworks//,/ }
  [[ $job =~ ^[0-9]+$ ]] || fail "--continue $job: the number of a job"
}

# Sets work, where every point is kept until the records are made: on disk that all nodes see.
open_work() {
  local asked
  work=$runs/.scaling-$job
  asked=$(printf '%s\n' "$all_tasks" "$counts" "$frameworks" "${rest[@]}")
  if [ "$job" != "$SLURM_JOB_ID" ]; then
    [ -f "$work/asked" ] || fail "--continue $job: there is no $work: that job has left nothing to go on with"
    [ "$(<"$work/asked")" = "$asked" ] || fail "--continue $job: that job was asked for something else: see $work/asked"
  fi
  mkdir -p "$work"
  printf '%s\n' "$asked" >"$work/asked"
}

# The points stay for the next start of this job, or the next job.
give_up() {
  if compgen -G "$work/*.json" >/dev/null; then
    echo "the points so far stay: if this job is not queued again, the same command with --continue $job goes on" >&2
  else
    rm -rf "$work"
  fi
  finish
}

# measure FRAMEWORK NODES TASKS_PER_NODE: one point of the curve.
measure() {
  nodes=$2 tasks_per_node=$3 tasks=$(($2 * $3))
  if [ -e "$work/$1-$nodes-$tasks.json" ]; then return; fi
  gpus_per_node=$((all_gpus > 0 ? $3 : 0))
  in_suite "$1" "$work" "$runs"
  set_srun_options
  MASTER_PORT=$((first_port + points)) points=$((points + 1))
  export MASTER_PORT
  echo "$1: $tasks process(es) on $nodes node(s)" >&2
  run_step "${srun_options[@]}" "${suite[@]}" anatobench bench scaling --together --framework "$1" "${rest[@]}" \
    --out "$work/$1-$nodes-$tasks.json"
  if [ "$status" != 0 ]; then give_up; fi
}

load_site
read_options "$@"
read_allocation
if [ "$gpus_per_node" -gt 0 ] && [ -n "${SLURM_GPUS_PER_NODE:-}" ]; then # an exclusive job is given all of them
  gpus_per_node=${SLURM_GPUS_PER_NODE##*:} tasks_per_node=${SLURM_GPUS_PER_NODE##*:}
fi
all_nodes=$nodes all_gpus=$gpus_per_node all_tasks=$tasks_per_node
for count in $counts; do
  [ "$count" -le "$all_nodes" ] || fail "--nodes ${counts//$'\n'/,}: the job has $all_nodes: sbatch --nodes $count ..."
done
mkdir -p "$ANATOBENCH_RUNS" 2>/dev/null || fail "ANATOBENCH_RUNS=$ANATOBENCH_RUNS: cannot be written"
runs=$(realpath "$ANATOBENCH_RUNS")
for framework in $frameworks; do
  in_suite "$framework"
done
set_coordinator
first_port=$MASTER_PORT points=0
open_work

for count in $counts; do
  for framework in $frameworks; do measure "$framework" "$count" "$all_tasks"; done
done
for framework in $frameworks; do
  measure "$framework" 1 1
done

records=()
for framework in $frameworks; do
  in_suite "$framework" "$work" "$runs"
  record=$runs/scaling-$job-$framework.json
  run_here "${suite[@]}" anatobench bench scaling --framework "$framework" "${rest[@]}" \
    --points "$work/$framework"-*.json --out "$record"
  if [ "$status" != 0 ]; then give_up; fi
  records+=("$record")
done
run_here "${suite[@]}" anatobench report --benchmarks "${records[@]}" --out "$runs/scaling-$job.html"
if [ "$status" = 0 ]; then rm -rf "$work"; fi
finish

#!/bin/bash
# train.sh TASK [train's options]: the body of train_ratic.sh, train_ct_rate.sh and train_rad_chestct.sh.
#
# Any option of `anatobench train` can follow, and --evaluate: one task then evaluates the trained run on the test split.
# Where an option is not given, the environment decides:
#     --framework  ANATOBENCH_FRAMEWORK  torch (default) or jax
#     --model      ANATOBENCH_MODEL      r3d_18 (default), mvit_v2_s, swin3d_t, or another with a card
#     --store      ANATOBENCH_STORE      default: $ANATOBENCH_STORES/TASK
#     --out        ANATOBENCH_RUN        default: $ANATOBENCH_RUNS/TASK_FRAMEWORK_MODEL
# With --config FILE the file names the model, and --framework must be the file's.
# slurm/site.conf holds what is particular about the cluster.
#
# The job starts one task per GPU with srun. A task knows its place from SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID,
# and the coordinator from MASTER_ADDR (the job's first node) and MASTER_PORT (10000 + job id modulo 20000; set either
# to overrule). The run always resumes: a requeued or resubmitted job goes on with the newest intact checkpoint.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=slurm/job.sh
source "$repository/slurm/job.sh"

read_options() { # sets framework, model, store, run; leaves the other options in rest
  task=$1
  shift
  framework=${ANATOBENCH_FRAMEWORK:-torch} model=${ANATOBENCH_MODEL:-r3d_18}
  store=${ANATOBENCH_STORE:-$ANATOBENCH_STORES/$task} run=${ANATOBENCH_RUN:-} rest=()
  evaluate=no copy="" config=""
  while [ $# -gt 0 ]; do
    case $1 in
      --framework | --model | --store | --out | --config)
        [ $# -gt 1 ] || fail "$1: its value is missing"
        set_option "$1" "$2"
        shift
        ;;
      --framework=* | --model=* | --store=* | --out=* | --config=*) set_option "${1%%=*}" "${1#*=}" ;;
      --evaluate) evaluate=yes ;;
      *) rest+=("$1") ;;
    esac
    shift
  done
  run=${run:-$ANATOBENCH_RUNS/${task}_${framework}_$model}
}

set_option() {
  case $1 in
    --framework) framework=$2 ;;
    --model) model=$2 ;;
    --store) store=$2 ;;
    --out) run=$2 ;;
    --config) config=$2 ;;
  esac
}

check_options() { # before srun, so that a wrong setting costs seconds
  case $framework in torch | jax) ;; *) fail "--framework $framework: torch or jax" ;; esac
  local models # the names on the backbones' cards
  models=$(sed -n 's/^    name="\(.*\)",$/\1/p' "$repository"/anatobench/backbones/*.py)
  grep -qxF -- "$model" <<<"$models" || fail "--model $model: choose one of ${models//$'\n'/, }"
  [ -r "$store/index.json" ] || fail "$store: no store here: make it with slurm/prepare.sh, or give --store"
  store=$(cd "$store" && pwd)
  if [ -n "$config" ]; then
    [ -r "$config" ] || fail "--config $config: cannot be read"
    config=$(realpath "$config")
  fi
  if ! mkdir -p "$run" 2>/dev/null || [ ! -w "$run" ]; then fail "$run: cannot be written: give another --out"; fi
  run=$(cd "$run" && pwd)
  scratch=${ANATOBENCH_LOCAL_SCRATCH:-${SLURM_TMPDIR:-}}
  if [ "$scratch" = none ]; then scratch=""; fi
}

# Copy the store to every node's own disk if there is one, and let the tasks read that.
stage_store() {
  if [ -z "$scratch" ]; then return; fi
  local before=$SECONDS
  run_step --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --overlap \
    bash "$repository/slurm/stage_store.sh" "$store" "$scratch"
  case $status in
    0)
      copy=$scratch/$(bash "$repository/slurm/stage_store.sh" --name "$store")
      rest+=(--store-copy "$copy")
      echo "the store is at $copy on $nodes node(s) after $((SECONDS - before)) s" >&2
      ;;
    3) echo "$scratch: too small for the store, so the tasks read $store" >&2 ;;
    *) finish ;;
  esac
}

evaluate_run() {
  nodes=1 tasks_per_node=1 tasks=1
  if [ "$gpus_per_node" -gt 0 ]; then gpus_per_node=1; fi
  set_srun_options
  echo "evaluating $run on the test split" >&2
  run_step "${srun_options[@]}" "${suite[@]}" anatobench evaluate "$run" --store "${copy:-$store}"
}

# A job that is queued again, after a node was lost for instance, can start before the last one's processes have ended.
wait_for_run() {
  local status=0
  if [ -L "$run/.lock" ]; then fail "$run/.lock: is a link, which a lock never is: look who made it, then delete it"; fi
  flock --conflict-exit-code 75 --timeout 120 "$run/.lock" true || status=$?
  if [ "$status" = 75 ]; then fail "$run: another job has been training this run for two minutes: stop it"; fi
}

load_site
read_options "$@"
read_allocation
check_options
in_suite "$framework" "$store" "$run" ${config:+"$(dirname "$config")" "$(dirname "$run")"} ${scratch:+"$scratch"}
wait_for_run
set_coordinator
set_srun_options
stage_store
echo "$task, $framework, ${config:-$model}: $tasks task(s) on $nodes node(s), restart ${SLURM_RESTART_COUNT:-0}, run $run" >&2
if [ -n "$config" ]; then what=(--config "$config"); else what=(--task "$task" --model "$model"); fi
run_step "${srun_options[@]}" "${suite[@]}" anatobench train --resume \
  "${what[@]}" --store "$store" --framework "$framework" --out "$run" "${rest[@]}"
if [ "$status" = 0 ] && [ "$evaluate" = yes ]; then evaluate_run; fi
finish

# What the jobs have in common; sourced by train.sh, prepare.sh, masks.sh, compare.sh, gpu_suite.sh and smoke.sh, after
# `repository` is set.
# shellcheck shell=bash disable=SC2153,SC2154

fail() { # one line, exit status 2: a setting is wrong
  local who # Slurm runs a copy of the script under another name
  who=$(basename "$0")
  if [ "$who" = slurm_script ]; then who=${SLURM_JOB_NAME:-$who}; fi
  echo "$who: $*" >&2
  exit 2
}

# `slurm/compare.sh --help`, not in a job: what the script's first comment says.
if [ -z "${SLURM_JOB_ID:-}" ] && [[ " $* " == *" --help "* ]]; then
  exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"
fi

load_site() {
  local site=$repository/slurm/site.conf said
  [ -r "$site" ] || fail "$site: cannot be read: every job needs it, so take it from the repository again"
  ! grep -q $'\r' "$site" || fail "$site: was saved with Windows line ends: sed -i 's/\\r//' $site"
  said=$(bash -n "$site" 2>&1) || fail "${said%%$'\n'*}"
  # shellcheck source=slurm/site.conf
  source "$site" || fail "$site: its last command failed"
  [ -n "${SLURM_JOB_ID:-}" ] || fail "not inside a Slurm job: start it with sbatch"
  export NCCL_DEBUG="${NCCL_DEBUG:-WARN}" # both frameworks' NCCL says what goes wrong, and nothing else
  [[ $ANATOBENCH_MAX_RESTARTS =~ ^[0-9]+$ ]] || fail "ANATOBENCH_MAX_RESTARTS=$ANATOBENCH_MAX_RESTARTS: not a number"
  local module
  for module in $ANATOBENCH_MODULES; do
    type module >/dev/null 2>&1 || fail "ANATOBENCH_MODULES is set, but there is no \`module\` command here"
    module load "$module" || fail "ANATOBENCH_MODULES: module load $module failed"
  done
}

# Sets nodes, tasks_per_node and tasks: one task per GPU; without GPUs as many as sbatch was told, else one per node.
read_allocation() {
  nodes=$SLURM_JOB_NUM_NODES
  gpus_per_node=${SLURM_GPUS_ON_NODE:-0}
  if [ "$gpus_per_node" -gt 0 ]; then
    if [ -n "${SLURM_GPUS:-}" ] && [ "${SLURM_GPUS##*:}" != $((nodes * gpus_per_node)) ]; then
      fail "the GPUs are spread unevenly over the $nodes nodes: ask with --gpus-per-node instead of --gpus"
    fi
    tasks_per_node=$gpus_per_node
  else
    tasks_per_node=${SLURM_NTASKS_PER_NODE:-$(((${SLURM_NTASKS:-$nodes} + nodes - 1) / nodes))}
    if [ -n "${SLURM_NTASKS:-}" ] && [ "$SLURM_NTASKS" != $((nodes * tasks_per_node)) ]; then
      fail "$SLURM_NTASKS tasks cannot be spread evenly over $nodes nodes: ask with --ntasks-per-node"
    fi
  fi
  tasks=$((nodes * tasks_per_node))
}

# Sets shards and shard: which part of the work this job of an array does. $1 is how the array is submitted.
read_shard() {
  shard=${SLURM_ARRAY_TASK_ID:-}
  [ -n "$shard" ] || fail "not a job array: sbatch --array=0-7 $1 ..."
  shards=${ANATOBENCH_SHARDS:-$SLURM_ARRAY_TASK_COUNT}
  if [ -z "${ANATOBENCH_SHARDS:-}" ]; then
    if [ "$SLURM_ARRAY_TASK_MIN" != 0 ] || [ "$SLURM_ARRAY_TASK_MAX" != $((shards - 1)) ]; then
      fail "the array must be 0-N; to repeat single shards say of how many: ANATOBENCH_SHARDS=N"
    fi
  fi
  [[ $shards =~ ^[0-9]+$ ]] || fail "ANATOBENCH_SHARDS=$shards: not a number"
  [ "$shard" -lt "$shards" ] || fail "no shard $shard of $shards: they count from 0"
}

# srun's options for one task per GPU, and its share of the cores. Every task sees all GPUs of its node and takes the
# one of its SLURM_LOCALID, unless the job was submitted with a --gpu-bind, which stays. Cores are dealt out socket by
# socket (block:block) as GPUs are numbered, so that a task computes beside its GPU.
set_srun_options() {
  local cores=$((SLURM_CPUS_ON_NODE / tasks_per_node))
  # Left in the environment these would overrule the options below, or contradict them.
  unset SLURM_CPUS_PER_GPU SLURM_CPUS_PER_TASK SLURM_GPUS SLURM_GPUS_PER_TASK SLURM_NTASKS_PER_GPU \
    SLURM_NTASKS SLURM_NPROCS SLURM_NTASKS_PER_NODE SLURM_TRES_PER_TASK SLURM_DISTRIBUTION
  srun_options=(--nodes="$nodes" --ntasks="$tasks" --ntasks-per-node="$tasks_per_node" --distribution=block:block
    --unbuffered --kill-on-bad-exit=0 --wait=120)
  if [ "$tasks" -gt 1 ]; then srun_options+=(--label); fi # who says what
  if [ "$cores" -gt 0 ]; then
    srun_options+=(--cpus-per-task="$cores")
  else
    echo "$tasks_per_node tasks share $SLURM_CPUS_ON_NODE cores of a node: ask for more, e.g. --cpus-per-gpu 8" >&2
    srun_options+=(--overcommit)
  fi
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > 0 ? cores : 1))}"
  if [ "$gpus_per_node" -gt 0 ]; then
    srun_options+=(--gpus-per-node="$gpus_per_node")
  fi
}

# Where the processes of a run meet: the job's first node, at a port that jobs on the same node do not share.
set_coordinator() {
  local hosts
  hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || fail "scontrol cannot read the node list $SLURM_JOB_NODELIST"
  export MASTER_ADDR="${MASTER_ADDR:-${hosts%%$'\n'*}}"
  export MASTER_PORT="${MASTER_PORT:-$((10000 + SLURM_JOB_ID % 20000))}"
}

# in_suite torch|jax|masks [FOLDER...]: sets suite to the words that come before `anatobench`: the image's, which then
# sees these folders, or the virtual environment's; with the variables that are this framework's alone.
in_suite() {
  local name=ANATOBENCH_IMAGE_${1^^} venv_name=ANATOBENCH_VENV_${1^^} own_name=ANATOBENCH_ENV_${1^^} venv own=()
  venv=${!venv_name:-}
  read -ra own <<<"${!own_name:-}"
  local word
  for word in "${own[@]}"; do
    [[ $word =~ ^[A-Za-z_][A-Za-z_0-9]*= ]] || fail "$own_name: $word: write NAME=VALUE words"
  done
  if [ "$1" = masks ]; then
    venv=${venv:-$repository/.venv-masks}
  elif [ -z "$venv" ]; then
    venv=${ANATOBENCH_VENV:-$repository/.venv} venv_name=ANATOBENCH_VENV
  fi
  local image=${!name}
  if [ -z "$image" ]; then
    [ -x "$venv/bin/python" ] || fail "$venv: no virtual environment: set $name or $venv_name"
    suite=(env "PATH=$venv/bin:$PATH" "${own[@]}")
    return
  fi
  [ -r "$image" ] || fail "$name=$image: no such image: make it (torch and jax: containers/build.sh $1)"
  local program=${ANATOBENCH_CONTAINER:-apptainer}
  command -v "$program" >/dev/null || fail "$program is not on the path: name its module in ANATOBENCH_MODULES"
  set_image_digest "$image"
  suite=(env "ANATOBENCH_IMAGE_DIGEST=$image_digest" "${own[@]}" "$program" exec)
  if [ "$gpus_per_node" -gt 0 ]; then suite+=(--nv); fi
  local folder folders cache=${ANATOBENCH_COMPILE_CACHE:-off}
  IFS=, read -ra folders <<<"$ANATOBENCH_BIND"
  if [ "$cache" != off ]; then
    mkdir -p "$cache" 2>/dev/null || fail "ANATOBENCH_COMPILE_CACHE=$cache: cannot be written"
    folders+=("$(realpath "$cache")")
  fi
  for folder in "$repository" "${folders[@]}" "${@:2}"; do suite+=(--bind "$folder"); done
  suite+=("$image")
}

# A benchmark of both frameworks takes each from its own image, and the program that measures runs in one of them, where it
# could not start the other. So it asks out here: `start FOLDER`, through a named pipe, starts a process with a framework
# that is then asked through FOLDER/requests and FOLDER/answers; `stop FOLDER` ends it.
#
# serve_arms FOLDER [FOLDERS...]: sets served to the options that say where the pipes are, in the first of the folders,
# all of which every image sees. end_arms ends all that was started.
serve_arms() {
  local framework
  served=() servers=()
  for framework in torch jax; do in_suite "$framework" "$@"; done # a missing one is told before anything starts
  for framework in torch jax; do
    in_suite "$framework" "$@"
    mkfifo "$1/$framework"
    describe_suite "$framework" >"$1/$framework.json"
    (
      cd "$1" || exit # not in the repository, whose code Python would take before the image's
      listen_for_arms "$1/$framework"
    ) &
    servers+=($!)
    served+=(--served "$framework=$1/$framework")
  done
}

listen_for_arms() {
  local what folder variables
  declare -A started=()
  set -m           # each in a process group of its own, with which its children end
  exec 9<>"$1"     # for writing, too: else the pipe would end with the first who wrote
  while read -r what folder <&9; do
    case $what in
      start)
        mapfile -t variables <"$folder/environment"
        "${suite[@]}" env "${variables[@]}" python -m anatobench.bench.arm_process \
          <"$folder/requests" >"$folder/answers" 2>"$folder/log" 9>&- &
        started[$folder]=$!
        ;;
      stop) kill -KILL -- "-${started[$folder]}" 2>/dev/null || true ;;
      end)
        for folder in "${!started[@]}"; do kill -KILL -- "-${started[$folder]}" 2>/dev/null || true; done
        return
        ;;
    esac
  done
}

end_arms() {
  local word
  for word in "${served[@]}"; do
    if [ "$word" != --served ]; then echo end 1<>"${word#*=}"; fi # opened so, it does not wait for a reader
  done
  wait "${servers[@]}" 2>/dev/null || true
}

describe_suite() { # where a framework runs, for the record
  local image=ANATOBENCH_IMAGE_${1^^} sum=null
  if [ -z "${!image}" ]; then
    printf '{"python": "%s"}' "$(PATH=${suite[1]#PATH=} command -v python)"
    return
  fi
  set_image_digest "${!image}"
  if [ -n "$image_digest" ]; then sum=\"${image_digest#sha256:}\"; fi
  printf '{"image": "%s", "sha256": %s}' "$(realpath "${!image}")" "$sum"
}

# set_image_digest IMAGE: sets image_digest to sha256:... of its file, for the records, once per job: from IMAGE.sha256,
# which build.sh writes, if that is newer. Empty for a folder.
declare -A image_digests=()
set_image_digest() {
  image_digest=${image_digests[$1]:-}
  if [ -n "$image_digest" ] || [ ! -f "$1" ]; then return; fi
  if [ "$1.sha256" -nt "$1" ] && grep -qE '^[0-9a-f]{64}\b' "$1.sha256"; then
    image_digest=sha256:$(head -c 64 "$1.sha256")
  else
    image_digest=sha256:$(sha256sum "$1" | head -c 64)
  fi
  image_digests[$1]=$image_digest
}

# one_task_with_both ADVICE: sets venv to an environment with both frameworks, and srun_options for one task on one GPU.
one_task_with_both() {
  venv=${ANATOBENCH_VENV:-$repository/.venv}
  "$venv/bin/python" -c 'import torch, torchvision, jax, flax' 2>/dev/null ||
    fail "$venv: has not both frameworks: set ANATOBENCH_VENV to one that has, or $1"
  if [ "$gpus_per_node" -gt 0 ]; then gpus_per_node=1; fi
  tasks_per_node=1 nodes=1 tasks=1
  set_srun_options
}

# run_step WORDS: srun WORDS, in the background so that signals are taken at once. Sets status to its exit status.
# SIGUSR1 (the time limit or preemption is near) and SIGTERM are passed on as SIGUSR1, on which the suite saves and
# exits with 130. srun passes it to every task. The suite takes any number of them for one.
run_step() { run_here srun "$@"; }

# run_here WORDS: the same without srun, on the job's first node, for what has children of its own to place.
run_here() {
  status=130
  if [ -n "${stopped_by:-}" ]; then return; fi
  log=$(readlink "/proc/$$/fd/2" 2>/dev/null) log_bytes=0
  if [ -f "$log" ]; then log_bytes=$(stat --format %s "$log"); fi
  "$@" &
  step=$!
  local before
  while before=${signals:-0}; do
    wait "$step" && status=0 || status=$?
    [ "${signals:-0}" = "$before" ] && break
  done
  step=""
}

stop_step() {
  signals=$((${signals:-0} + 1)) stopped_by=$1
  if [ -n "${step:-}" ]; then kill -USR1 "$step" 2>/dev/null || true; fi
}
trap 'stop_step SIGUSR1' USR1
trap 'stop_step SIGTERM' TERM

# Whether the memory limit killed the step. Where control groups do it srun's status says so (253 is Slurm's SIG_OOM); else
# slurmstepd and srun say it in the job's log, after the step began.
killed_by_memory_limit() {
  case $status in
    253) return 0 ;;
    125 | 137) [ -f "$log" ] && tail --bytes=+$((log_bytes + 1)) "$log" | grep -qE "$memory_words" ;;
    *) return 1 ;;
  esac
}
memory_words='oom[-_]kill|Out Of Memory|[Ee]xceeded (job |step )?memory limit'

# Once, for neighbours on the node or an unlucky moment; a job that needs more than it has would die for ever. That it was
# killed stands in the job's comment, which outlives its restarts.
finish_after_memory_limit() {
  local note=anatobench-met-the-memory-limit comment
  comment=$(squeue --noheader --jobs "$(own_job)" --format %k 2>/dev/null) || comment=""
  if [[ $comment == *"$note"* ]]; then
    echo "killed by the memory limit for the second time: given up: ask for more memory (sbatch --mem, ANATOBENCH_MEMORY)" \
      "or fewer --workers; the same command goes on from what was saved" >&2
    exit 137
  fi
  comment=${comment#(null)}
  scontrol update jobid="$(own_job)" comment="${comment:+$comment }$note" || true
  requeue "killed by the memory limit"
  exit 137
}

# summarise STATUS: what the job took, and that it is about to end with this, in one line of its log. It decides nothing.
summarise() {
  timeout 30 bash "$repository/slurm/summary.sh" --ending "$1" "$(own_job)" >&2 || true
}

# finish: end the job as the step's status says: done, failed, or saved and back into the queue.
finish() {
  local out_of_memory=no
  if killed_by_memory_limit; then out_of_memory=yes status=137; fi
  summarise "$status"
  if [ "$out_of_memory" = yes ]; then finish_after_memory_limit; fi
  case $status in
    130 | 138 | 143) requeue "saved" ;; # asked to stop: by itself, or by SIGUSR1/SIGTERM before it could listen
    134 | 135 | 136 | 137 | 139)        # a process died: aborted, killed, or crashed
      if [ "${SLURM_RESTART_COUNT:-0}" -lt "$ANATOBENCH_MAX_RESTARTS" ]; then
        requeue "killed (exit status $status)"
      else
        echo "killed (exit status $status) after ${SLURM_RESTART_COUNT} restarts: given up" >&2
      fi
      ;;
  esac
  exit "$status"
}

own_job() { # the last job of an array has the array's own id, which scontrol takes for all of its jobs
  if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then echo "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; else echo "$SLURM_JOB_ID"; fi
}

requeue() { # a job that is being cancelled or requeued by someone else is left to them
  local state job
  job=$(own_job)
  state=$(scontrol show job --oneliner "$job" 2>/dev/null | grep -o 'JobState=[A-Z_]*') || state=""
  if [ "$state" != JobState=RUNNING ]; then
    echo "$1; ${state:-the job is unknown to Slurm}: not queued again from here" >&2
  elif scontrol requeue "$job"; then
    echo "$1; queued again" >&2
  else
    echo "$1, but scontrol requeue failed: submit the same command again to go on" >&2
  fi
}

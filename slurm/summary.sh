#!/bin/bash
# summary.sh JOBID...: one line per job, or per element of an array: how it ended, how long it took, GPU hours, the
# largest memory of a task, and how much of its cores it used:
#     slurm/summary.sh 4711
# From `sacct`; on a cluster without accounting from `scontrol`, which knows a job for some minutes after its end, and
# neither memory nor processor time. Every job of this folder writes the same line at its end, when Slurm still has it as
# running: `--ending STATUS` before its id says with which exit status it is about to end.
set -euo pipefail
case ${1:-} in -h | --help) exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0" ;; esac

fields=JobID,JobName,State,ExitCode,ElapsedRaw,AllocCPUS,TotalCPU,MaxRSS,AllocTRES

# One line per job from lines of these fields, steps after their job.
summarise() {
  awk -F'|' -v ending="$ending" '
    function seconds(text,   days, parts, n, i, total) { # [DD-][HH:]MM:SS[.mmm]
      days = 0
      if (text ~ /-/) { days = text; sub(/-.*/, "", days); sub(/^[0-9]*-/, "", text) }
      n = split(text, parts, ":")
      for (i = 1; i <= n; i++) total = 60 * total + parts[i]
      return 86400 * days + total
    }
    function gib(text,   unit) { # 1234K, 12.5M, 4G, or bytes
      unit = substr(text, length(text))
      if (unit == "K") return text / 1048576
      if (unit == "M") return text / 1024
      if (unit == "G") return text + 0
      if (unit == "T") return text * 1024
      return text / 1073741824
    }
    function tres(text, name,   parts, pair, n, i, typed) { # gres/gpu=4, or gres/gpu:a100=4 alone
      n = split(text, parts, ",")
      for (i = 1; i <= n; i++) {
        split(parts[i], pair, "=")
        if (pair[1] == name) return pair[2]
        if (index(pair[1], name ":") == 1) typed += pair[2]
      }
      return typed
    }
    function show(   gpus, line, memory) {
      if (job == "") return
      gpus = tres(alloc, "gres/gpu") + 0
      line = sprintf("job %s %s: %s (exit %s) after %d:%02d:%02d", job, name, state, code, elapsed / 3600,
        elapsed % 3600 / 60, elapsed % 60)
      if (gpus) line = line sprintf(", %d GPU%s, %.2f GPU hours", gpus, gpus > 1 ? "s" : "", gpus * elapsed / 3600)
      memory = tres(alloc, "mem")
      if (rss > 0) {
        line = line sprintf(", memory of a task at most %.2f GiB", rss)
        if (memory != "") line = line sprintf(" (the job has %.0f)", gib(memory))
      } else line = line ", memory not accounted"
      if (cpu > 0 && elapsed * cores > 0) {
        line = line sprintf(", %.0f %% of %d cores", 100 * cpu / (elapsed * cores), cores)
      } else line = line ", processor time not accounted"
      print line
    }
    $1 !~ /\./ { # a job; its steps follow
      show()
      job = $1; name = $2; state = $3; sub(/ .*/, "", state); code = $4; elapsed = $5; cores = $6
      if (ending != "") { state = "ends"; code = ending ":0" }
      cpu = seconds($7); alloc = $9; rss = 0; steps_cpu = 0
    }
    $8 != "" && gib($8) > rss { rss = gib($8) }
    $1 ~ /\./ { steps_cpu += seconds($7); if (steps_cpu > cpu) cpu = steps_cpu } # a running job has no sum yet
    END { show() }
  '
}

# The same fields from scontrol, without what it does not know.
from_scontrol() {
  scontrol show job --oneliner "$1" | awk '
    {
      split("", f)
      for (i = 1; i <= NF; i++) { at = index($i, "="); if (at) { k = substr($i, 1, at - 1); if (!(k in f)) f[k] = substr($i, at + 1) } }
      time = f["RunTime"]; days = 0
      if (time ~ /-/) { days = time; sub(/-.*/, "", days); sub(/^[0-9]*-/, "", time) }
      split(time, p, ":")
      id = f["ArrayTaskId"] ~ /^[0-9]+$/ ? f["ArrayJobId"] "_" f["ArrayTaskId"] : f["JobId"]
      tres = f["AllocTRES"] != "" ? f["AllocTRES"] : f["TRES"]
      printf "%s|%s|%s|%s|%d|%s|||%s\n", id, f["JobName"], f["JobState"], f["ExitCode"],
        86400 * days + 3600 * p[1] + 60 * p[2] + p[3], f["NumCPUs"], tres
    }'
}

ending=""
if [ "${1:-}" = --ending ]; then
  ending=${2:-}
  shift $(($# < 2 ? $# : 2))
fi
if [ $# = 0 ] || [[ ! $1 =~ ^[0-9] ]]; then
  echo "summary.sh: say which job: slurm/summary.sh JOBID..." >&2
  exit 2
fi
for job in "$@"; do
  said=""
  if command -v sacct >/dev/null; then
    said=$(sacct --jobs "$job" --parsable2 --noheader --noconvert --format "$fields" 2>/dev/null) || said=""
  fi
  if [ -z "$said" ]; then said=$(from_scontrol "$job" 2>/dev/null) || said=""; fi
  if [ -z "$said" ]; then
    echo "summary.sh: $job: neither sacct nor scontrol knows this job" >&2
    exit 1
  fi
  summarise <<<"$said"
done

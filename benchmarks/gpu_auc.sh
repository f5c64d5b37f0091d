#!/usr/bin/env bash
# Does segmentation supervision raise the AUC of full-size models, and do the frameworks agree on it? On one GPU, without
# network, in at most 25 minutes: the synthetic cohort is rendered here by all cores, the study is declared before it
# runs, every arm chooses its learning rate on validation patients, and as many seeds are trained as fit. The same
# command goes on where it was.
#     benchmarks/gpu_auc.sh --out DIR [--minutes M] [--plan FILE | SETTINGS]
# SETTINGS are those of `anatobench experiments declare` (--models, --cases, --steps, --seeds, ...), of a new study.
# DIR/plan.json is what was declared, DIR/study the study, DIR/study/record.json its record, rewritten by every call. Exit
# status 0: all declared seeds are done, or as many as fitted, but one at least; 1: not one yet.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
suite=("${PYTHON:-python3}" -m anatobench experiments)

out="" minutes=22 plan="" settings=() # three minutes are for saving, the evaluation at work, and the record
while [ $# -gt 0 ]; do
  case $1 in
    --out | --minutes | --plan)
      [ $# -gt 1 ] || { echo "gpu_auc: $1: give a value" >&2; exit 2; }
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --help | -h)
      sed -n '2,/^set/{/^set/!s/^# \?//p}' "${BASH_SOURCE[0]}"
      exit
      ;;
    *)
      settings+=("$1")
      shift
      ;;
  esac
done
[ -n "$out" ] || { echo "gpu_auc: --out: give a folder for everything" >&2; exit 2; }

need_gpu() {
  if ! nvidia-smi -L > /dev/null 2>&1; then
    echo "gpu_auc: full-size models need a GPU, and none is seen here (--size tiny is for a CPU)" >&2
    exit 2
  fi
}

if [ -n "$plan" ]; then
  if [ ${#settings[@]} -gt 0 ]; then
    echo "gpu_auc: --plan declares everything: leave ${settings[0]} out" >&2
    exit 2
  fi
elif [ -f "$out/plan.json" ]; then
  plan=$out/plan.json # a study that goes on, whatever settings are repeated
else
  plan=$out/plan.json
  case " ${settings[*]} " in *" --size tiny "* | *" --size=tiny "*) ;; *) need_gpu ;; esac
  mkdir -p "$out"
  "${suite[@]}" declare --out "$plan" --task ratic --injuries large --size full --models r3d_18 --precision bf16 \
    --cases 400 --validation-fraction 0.15 --learning-rates 3e-4,1e-3 --batch-size 5 --steps 600 --seeds 8 \
    --pilot "$repository/benchmarks/results/auc_ratic_r3d_18.json" "${settings[@]}"
fi
if grep -q '"size": "full"' "$plan"; then need_gpu; fi
exec "${suite[@]}" auc --plan "$plan" --out "$out/study" --minutes "$minutes" --workers 1

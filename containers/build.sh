#!/bin/bash
# Build the Apptainer images. On any Linux machine with Apptainer and network:
#     containers/build.sh torch|jax [--out IMAGE] [--base DIR] [apptainer build's options]
# Without --out the image is torch.sif or jax.sif in the folder one calls it from.
# --base DIR starts from a root file system or image on this machine instead of a published one.
# PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and PIP_TRUSTED_HOST are used from the environment (no passwords:
# the image remembers them). On a machine without a GPU the image is the same: CUDA comes with the packages.
#     containers/build.sh jax --build-arg JAX=jax       # without CUDA
set -euo pipefail

fail() {
  echo "build.sh: $*" >&2
  exit 2
}

framework=${1:-}
case $framework in torch | jax) shift ;; *) fail "say which: containers/build.sh torch, or jax" ;; esac
repository=$(cd "$(dirname "$0")/.." && pwd)
image=$PWD/$framework.sif options=()
while [ $# -gt 0 ]; do
  case $1 in
    --out)
      [ $# -gt 1 ] || fail "--out: its value is missing"
      image=$(realpath -m "$2")
      shift
      ;;
    --base)
      [ -e "${2:-}" ] || fail "--base ${2:-}: not there"
      options+=(--build-arg BOOTSTRAP=localimage --build-arg "BASE=$(realpath "$2")")
      shift
      ;;
    *) options+=("$1") ;;
  esac
  shift
done
command -v apptainer >/dev/null || fail "apptainer is not on the path: module load apptainer?"
[ ! -e "$image" ] || fail "$image is there already: remove it first"
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_TRUSTED_HOST; do
  if [ -n "${!name:-}" ]; then options+=(--build-arg "$name=${!name}"); fi
done
cd "$repository" # the definitions name their files from here
exec apptainer build --fakeroot "${options[@]}" "$image" "containers/$framework.def"

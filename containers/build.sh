#!/bin/bash
# Build an image with one framework. On any Linux machine with Apptainer (or Docker, or Podman) and network:
#     containers/build.sh torch|jax [--cuda 13|12|none] [--out IMAGE] [--base BASE] [--with PROGRAM] [its build's options]
# --cuda   13: the node's driver must be 580 or newer; 12: 525 or newer; none: for machines without a GPU.
#          containers/install.sh says which builds of PyTorch and JAX each means.
# --out    default: torch.sif or jax.sif in the folder one calls it from; with docker and podman a tag: anatobench-torch.
# --base   start from a root file system or image on this machine instead of a published one; with docker and podman
#          the name of an image.
# --with   apptainer (default), singularity, docker or podman.
# Beside an Apptainer image lies IMAGE.sha256, its SHA-256 as sha256sum writes it, which jobs put in their records.
# PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and PIP_TRUSTED_HOST are used from the environment (no passwords:
# the image remembers them). On a machine without a GPU the image is the same: CUDA comes with the packages.
set -euo pipefail
case ${1:-} in -h | --help) exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0" ;; esac

fail() {
  echo "build.sh: $*" >&2
  exit 2
}

framework=${1:-}
case $framework in torch | jax) shift ;; *) fail "say which: containers/build.sh torch, or jax" ;; esac
repository=$(cd "$(dirname "$0")/.." && pwd)
program=apptainer image="" base="" cuda=13 options=()
while [ $# -gt 0 ]; do
  case $1 in
    --out | --base | --with | --cuda)
      [ $# -gt 1 ] || fail "$1: its value is missing"
      case $1 in
        --out) image=$2 ;;
        --base) base=$2 ;;
        --with) program=$2 ;;
        --cuda) cuda=$2 ;;
      esac
      shift
      ;;
    *) options+=("$1") ;;
  esac
  shift
done
case $cuda in 13 | 12 | none) ;; *) fail "--cuda $cuda: 13, 12 or none" ;; esac
case $program in
  apptainer | singularity) kind=apptainer ;;
  docker | podman) kind=docker ;;
  *) fail "--with $program: apptainer, singularity, docker or podman" ;;
esac
command -v "$program" >/dev/null || fail "$program is not on the path: module load $program?"

commit=$(git -C "$repository" rev-parse HEAD 2>/dev/null || true)
if [ -n "$(git -C "$repository" status --porcelain --untracked-files=no 2>/dev/null)" ]; then commit+=-dirty; fi
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$repository/anatobench/__init__.py")
options+=(--build-arg "FRAMEWORK=$framework" --build-arg "CUDA=$cuda")
options+=(--build-arg "COMMIT=$commit" --build-arg "VERSION=$version")
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_TRUSTED_HOST; do
  if [ -n "${!name:-}" ]; then options+=(--build-arg "$name=${!name}"); fi
done

if [ "$kind" = docker ]; then
  if [ -n "$base" ]; then options+=(--build-arg "BASE=$base"); fi
  cd "$repository"
  exec "$program" build "${options[@]}" --tag "${image:-anatobench-$framework}" --file containers/Dockerfile .
fi
image=$(realpath -m "${image:-$framework.sif}")
if [ -n "$base" ]; then
  [ -e "$base" ] || fail "--base $base: not there"
  options+=(--build-arg BOOTSTRAP=localimage --build-arg "BASE=$(realpath "$base")")
fi
[ ! -e "$image" ] || fail "$image is there already: remove it first"
cd "$repository" # the definition names its files from here
"$program" build --fakeroot "${options[@]}" "$image" containers/image.def
if [ -f "$image" ]; then
  cd "$(dirname "$image")"
  sha256sum "$(basename "$image")" >"$image.sha256"
fi

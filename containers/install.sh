#!/bin/bash
# install.sh: what an image holds. Both recipes, image.def and Dockerfile, run it as root with the source in /opt/source:
#     FRAMEWORK=torch|jax CUDA=13|12|none [COMMIT=...] bash /opt/source/containers/install.sh
# pip's own PIP_* are used. Everything lands in /opt/anatobench but the system's packages; the source goes away.
#
# Which builds CUDA means, with the versions of constraints.txt:
#            torch                                              jax         the node's driver
#     13     as published (2.14.1: CUDA 13)                     jax[cuda13] 580 or newer
#     12     +cu126 from PyTorch's own index, up to 2.14        jax[cuda12] 525 or newer
#     none   +cpu from there                                    jax         none
# Drivers: NVIDIA, CUDA Compatibility, table 1 (minor version compatibility).
set -euo pipefail
case ${1:-} in -h | --help) exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0" ;; esac
source=/opt/source home=/opt/anatobench
wheels=${PYTORCH_WHEELS:-https://download.pytorch.org/whl}

fail() {
  echo "install.sh: $*" >&2
  exit 2
}

# PyTorch and Triton build small C programs where they run: without a compiler steps take two to three times as long.
# NCCL of both frameworks opens libibverbs at run time: without it and the cards' providers, nodes talk over TCP.
install_packages() {
  if command -v apt-get >/dev/null; then
    local packages=(libibverbs1 ibverbs-providers librdmacm1 rdma-core)
    if [ "$FRAMEWORK" = torch ]; then packages+=(g++ libc6-dev); fi
    apt-get update --quiet=2
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends "${packages[@]}" >/dev/null
    rm -rf /var/lib/apt/lists/*
  elif command -v dnf >/dev/null; then
    local packages=(libibverbs librdmacm rdma-core)
    if [ "$FRAMEWORK" = torch ]; then packages+=(gcc-c++ glibc-devel); fi
    dnf install --quiet --assumeyes --setopt=install_weak_deps=False "${packages[@]}"
    dnf clean all
  else
    fail "the base has neither apt-get nor dnf: choose another BASE"
  fi
}

# Sets words (what pip is told beside the constraints) and leaves the constraints of another CUDA out.
choose_builds() {
  words=('.[torch]')
  if [ "$FRAMEWORK" = jax ]; then words=('.[jax]'); fi
  case $FRAMEWORK-$CUDA in
    torch-13 | jax-none) ;;
    torch-12) from_pytorch cu126 ;;
    torch-none) from_pytorch cpu ;;
    jax-13 | jax-12) words+=("jax[cuda$CUDA]") ;;
    *) fail "FRAMEWORK=$FRAMEWORK CUDA=$CUDA: torch or jax, and 13, 12 or none" ;;
  esac
  if [ "$CUDA" != 13 ]; then sed -i -E '/^(nvidia|cuda)-/d' constraints.txt; fi # those pinned are of 13
}

from_pytorch() { # torch and torchvision in PyTorch's own build of that name
  words+=(--extra-index-url "$wheels/$1")
  local package
  for package in torch torchvision; do words+=("$(grep "^$package==" constraints.txt)+$1"); done
}

install_packages
cd "$source"
chmod -R go+rX .
if [ "$FRAMEWORK" = torch ]; then rm -rf jax_impl; else rm -rf torch_ref; fi
choose_builds
python3 -m venv "$home"
"$home/bin/pip" install --no-cache-dir --disable-pip-version-check --quiet --constraint constraints.txt "${words[@]}"
cp constraints.txt "$home/"
install -m 755 containers/smoke_test.sh /usr/local/bin/anatobench-smoke-test
printf '#!/bin/bash\nexec %s/bin/python -m anatobench.system.image "$@"\n' "$home" >/usr/local/bin/anatobench-image
chmod 755 /usr/local/bin/anatobench-image
cd /
# What the image holds, as installed, for records and for labels.
"$home/bin/python" -m anatobench.system.image --describe "$FRAMEWORK" "$COMMIT" >"$home/image.json"
"$home/bin/python" -m anatobench.system.image --labels "$home/image.json" >"$home/labels"
rm -rf "$source"

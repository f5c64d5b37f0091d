#!/usr/bin/env bash
# All that one GPU is asked, in under ten minutes and without network: do the frameworks agree on this device, how long
# do their programs take to compile and their steps and those of the peers to run, what does the segmentation head cost,
# which batch fits.
#     benchmarks/gpu_suite.sh [--out FILE] [--continue | --fresh] [--precision bf16] [--geometry chest]
#                             [--parts NAME,...] [--help]
# One JSON record goes to FILE (rewritten after every step of the work, so nothing is lost, whatever ends it), one short
# table to stdout, last. Exit status 0: every part is done; 1: something is missing, which --continue takes up.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" "$repository/benchmarks/gpu_suite.py" "$@"

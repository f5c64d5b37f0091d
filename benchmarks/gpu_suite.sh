#!/usr/bin/env bash
# All that one GPU is asked, in under ten minutes and without network: do the frameworks agree on this device, how long
# do their steps and those of the peers take, what does the segmentation head cost, which batch fits.
#     benchmarks/gpu_suite.sh [--out FILE] [--precision bf16] [--geometry chest] [--parts NAME,...] [--help]
# One JSON record goes to FILE (rewritten after every part, so nothing is lost), one short table to stdout, last.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" "$repository/benchmarks/gpu_suite.py" "$@"

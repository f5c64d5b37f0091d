"""Lets every test import what stands in tests/support, keeps compiled programs out of the home directory and compiles
them quickly, and lets every process that tests start heed Ctrl-C and the end of a terminal."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

# Inherited by every process that tests start. The Makefile names a folder for JAX's, which comes first.
os.environ.setdefault("ANATOBENCH_COMPILE_CACHE", "off")

# Tests run beside each other, and threads of several pools on the same cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What XLA compiles here runs for moments: without LLVM's optimization and in its older form of fusions it compiles in a
# fifth of the time. An empty XLA_FLAGS, as of `make test-parity`, leaves it all in.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

# A shell starts what it runs in the background with Ctrl-C ignored, and child processes inherit that. A handler
# set here is taken off again in each child. (Popen's preexec_fn would do it too, but forks in a way JAX warns of.)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Likewise of `nohup`: a test that wants SIGHUP ignored says so itself.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

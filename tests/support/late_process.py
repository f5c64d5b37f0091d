"""Two processes meet, and the second one comes to the next collective late: `python late_process.py FRAMEWORK SECONDS`,
started with RANK, WORLD_SIZE and so on. Prints what was gathered."""

from __future__ import annotations

import sys
import time

import numpy as np

from anatobench.engine import ModelSpec, load_engine
from anatobench.recipes import Recipe
from anatobench.system.processes import find_processes
from anatobench.tasks import RATIC


def main() -> None:
    framework, seconds = sys.argv[1], float(sys.argv[2])
    processes = find_processes()
    engine = load_engine(framework, ModelSpec("r3d_18", "tiny", RATIC, (8, 8, 8)), Recipe(), processes)
    if not processes.leads:
        time.sleep(seconds)
    print(engine.gather(np.array([processes.index])).reshape(-1).tolist())
    engine.close()


if __name__ == "__main__":
    main()

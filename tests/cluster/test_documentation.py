"""Every command in a block of docs/cluster.md, as printed and in that order, by somebody at a login node."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from cluster_jobs import REPOSITORY
from forked_python import SHALLOW
from record_schema import assert_valid
from virtual_cluster import FINISHED, VirtualCluster, wait_for

from anatobench.bench.communication_model import Links

pytest.importorskip("torch")
pytest.importorskip("flax")

SOURCE = "source slurm/site.conf"


def printed_commands() -> list[str]:
    text = (REPOSITORY / "docs" / "cluster.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def ended(cluster: VirtualCluster, job: str) -> list[dict[str, str]]:
    """Return the fields of every element of a job, once all have ended."""

    def elements() -> list[dict[str, str]]:
        shown = cluster.scontrol("show", "job", "--oneliner", job)
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in shown.splitlines() if line.strip()]

    wait_for(lambda: all(one["JobState"] in FINISHED for one in elements()), 900, f"job {job} did not end")
    return elements()


def test_every_command_runs_as_printed(cluster: VirtualCluster, environment: Path, tmp_path: Path) -> None:
    for path in REPOSITORY.iterdir():  # a clone of one's own
        if path.name not in ("slurm", "runs", "stores", "raw") and not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(REPOSITORY / "slurm", tmp_path / "slurm")
    settings = {
        **SHALLOW,
        "ANATOBENCH_REPOSITORY": str(tmp_path),
        "ANATOBENCH_DEVICE": "cpu",
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
    }
    commands = printed_commands()
    assert commands[0] == SOURCE
    assert sum(line.startswith("sbatch ") for line in commands) >= 6
    for line in commands[1:]:
        said = cluster.shell(f"{SOURCE}\n{line}", settings=settings, cwd=tmp_path)
        if line.startswith("slurm/summary.sh "):
            assert re.fullmatch(r"job 1 smoke: COMPLETED \(exit 0:0\) after 0:\d\d:\d\d, memory .*\n", said), said
        if not line.startswith("sbatch "):
            continue
        match = re.fullmatch(r"Submitted batch job (\d+)\n", said)
        assert match, said
        states = [one["JobState"] for one in ended(cluster, match[1])]
        logs = "\n".join(path.read_text() for path in tmp_path.glob(f"*-{match[1]}*.log"))
        assert set(states) == {"COMPLETED"}, f"{line}\n{states}\n{logs}"
    assert (tmp_path / "runs" / "ratic_torch_r3d_18" / "evaluation_test.json").exists()
    assert (tmp_path / "runs" / "torchrun" / "config.json").exists()
    assert list((tmp_path / "runs").glob("compare-*.json"))
    assert list((tmp_path / "runs" / "profiled" / "profile").iterdir())
    logged = "\n".join(path.read_text() for path in tmp_path.glob("ratic-*.log"))
    assert re.search(r"^job \d+ ratic: \w+ \(exit \d+:\d+\) after 0:", logged, re.MULTILINE), "a line in each log"
    check_scaling(tmp_path / "runs")


def check_scaling(runs: Path) -> None:
    (page,) = runs.glob("scaling-*.html")
    assert "All-reduce of" in page.read_text()
    for framework in ("torch", "jax"):
        (path,) = runs.glob(f"scaling-*-{framework}.json")
        record = json.loads(path.read_text())
        assert_valid(record, "scaling")
        found = [(one["mode"], one["nodes"], one["processes"], one["global_batch"]) for one in record["results"]]
        assert found == [("weak", 1, 1, 2), ("weak", 2, 2, 4), ("strong", 1, 1, 2), ("strong", 2, 2, 2)]
        assert {row["nodes"] for row in record["all_reduce"]} == {2}
        assert {"network_latency", "network_bandwidth"} <= set(record["measured_links"])
        assert record["prediction"]["inputs"]["network_bandwidth"] != Links().network_bandwidth
    assert not list(runs.glob(".scaling-*")), "what it worked with is gone"

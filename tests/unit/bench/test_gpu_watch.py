"""What a record says of the GPU, with a driver's tool that answers as the real one does."""

import time
from pathlib import Path

import pytest

from anatobench.bench.gpu_watch import watched_gpus

FAKE = """#!/bin/sh
case "$*" in
  *clocks_event_reasons*--loop*) ;;
  *--loop*) ;;
  *clocks_event_reasons*) [ -n "$OLD_DRIVER" ] && exit 2; echo 0x0; exit ;;
  *clocks_throttle_reasons*) echo 0x0; exit ;;
  *) echo "NVIDIA H200, 580.159.04, 143771, 700.00, 1980, [N/A]"; exit ;;
esac
echo "2026/11/27 05:22:49.100, 0, 345, 3201, 30, 77.5, 0x0000000000000001"
echo "2026/11/27 05:22:49.600, 0, 1980, 3201, 50, [N/A], 0x0000000000000000"
echo "2026/11/27 05:22:50.100, 0, 1500, 3201, 61, 699.0, 0x0000000000000004"
exec sleep 60
"""


@pytest.mark.parametrize("old_driver", ["", "yes"])
def test_clocks_and_throttling_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old_driver: str) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(FAKE)
    tool.chmod(0o755)
    monkeypatch.setenv("OLD_DRIVER", old_driver)
    with watched_gpus(1, str(tool)) as watch:
        for _ in range(100):
            if len(watch.samples) == 3:
                break
            time.sleep(0.1)
    (power,) = watch.power.values()
    assert [moment - power.times[0] for moment in power.times] == pytest.approx([0, 0.5, 1])
    assert power.watts == pytest.approx([77.5, float("nan"), 699.0], nan_ok=True)
    found = watch.to_json()
    assert found is not None
    assert found["name"] == "NVIDIA H200"
    assert found["driver_version"] == "580.159.04"
    assert found["clocks.sm"] == {"min": 345, "median": 1500, "max": 1980}
    assert found["power.draw"]["max"] == 699
    assert found["throttle_reasons"] == ["software power cap"]


def test_all_gpus_that_are_used_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names that CUDA shows them under; one that slows its clock is told, whichever it is."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        f"""#!/bin/sh
echo "$*" >>{tmp_path}/asked
case "$*" in
  *--loop*) ;;
  *clocks_event_reasons*) echo 0x0; echo 0x0; exit ;;
  *) for gpu in 2 3; do echo "NVIDIA H200, 580.159.04, 143771, 700.00, 1980, [N/A]"; done; exit ;;
esac
echo "2026/11/27 05:22:49.100, 2, 1980, 3201, 30, 300.0, 0x0000000000000000"
echo "2026/11/27 05:22:49.101, 3, 1500, 3201, 61, 500.0, 0x0000000000000004"
exec sleep 60
"""
    )
    tool.chmod(0o755)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5")
    with watched_gpus(2, str(tool)) as watch:
        for _ in range(100):
            if len(watch.samples) == 2:
                break
            time.sleep(0.1)
    assert all("-i 2,3 " in line for line in (tmp_path / "asked").read_text().splitlines())
    assert {gpu: power.watts for gpu, power in watch.power.items()} == {"2": [300.0], "3": [500.0]}
    found = watch.to_json()
    assert found is not None
    assert (found["name"], found["mig.mode.current"], found["gpus"]) == ("NVIDIA H200", "[N/A]", 2)
    assert found["clocks.sm"] == {"min": 1500, "median": 1740, "max": 1980}
    assert found["throttle_reasons"] == ["software power cap"]


def test_no_gpu_is_no_error() -> None:
    with watched_gpus(1, "no-such-tool") as watch:
        pass
    assert watch.to_json() is None

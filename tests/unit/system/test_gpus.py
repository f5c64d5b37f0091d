"""Which jobs have GPUs, by what Slurm says."""

import pytest

from anatobench.system.gpus import gpus_of_the_job


@pytest.mark.parametrize(
    ("said", "given"),
    [
        ({"SLURM_JOB_GPUS": "0,1"}, "SLURM_JOB_GPUS=0,1"),
        ({"SLURM_GPUS_ON_NODE": "4"}, "SLURM_GPUS_ON_NODE=4"),
        ({"CUDA_VISIBLE_DEVICES": "2"}, "CUDA_VISIBLE_DEVICES=2"),
        ({"SLURM_GPUS_ON_NODE": "0", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, None),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({}, None),
    ],
)
def test_what_slurm_says(said: dict[str, str], given: str | None) -> None:
    assert gpus_of_the_job({"SLURM_JOB_ID": "1", **said}) == given
    assert gpus_of_the_job(said) is None, "outside a job nobody promised anything"

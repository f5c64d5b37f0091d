"""Weights that let the real TotalSegmentator run without its published ones: random, so good for plumbing alone.

The network is built by nnU-Net's own `build_network_architecture` from a plans file of the published form, with two
stages of eight features instead of six of up to 320.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from anatobench.masks.weights import MODEL, TASK

PATCH = [64, 64, 64]
UNSIDED_STRUCTURES = ("liver", "stomach", "colon", "heart")
"""With sided structures alone random masks would be refused as mirrored, and rightly so."""


def write_stand_in_weights(folder: Path, seed: int = 0, structures: Collection[str] = ()) -> Path:
    """Write the weights of task `total`, `fast`, below `folder` (TOTALSEG_WEIGHTS_PATH); the model's folder.

    With `structures` no other structure is ever found.
    """
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS
    from totalsegmentator.map_to_binary import class_map

    model: Path = folder / TASK_ID_WEIGHTS_CONFIGS[TASK]["foldername"] / MODEL
    (model / "fold_0").mkdir(parents=True)
    names = class_map["total"]
    labels = {"background": 0, **{name: label for label, name in names.items()}}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    plans = _plans()
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(json.dumps(dataset))

    torch.manual_seed(seed)
    manager = PlansManager(plans)
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 1, len(labels), enable_deep_supervision=False
    )
    weights = network.state_dict()
    if structures:
        allowed = {0, *(labels[name] for name in structures)}
        for name in [name for name in weights if "seg_layers" in name and name.endswith("bias")]:
            weights[name][
                [label for label in range(len(labels)) if label not in allowed]
            ] = -100.0  # half precision must hold it
    checkpoint = {
        "network_weights": weights,
        "trainer_name": "nnUNetTrainer_4000epochs_NoMirroring",
        "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0, "dataset_json": dataset},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, model / "fold_0" / "checkpoint_final.pth")
    return model


def _plans() -> dict[str, Any]:
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [8, 8],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [2, 2, 2]],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": PATCH,
        "median_image_size_in_voxels": PATCH,
        "spacing": [3.0, 3.0, 3.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": architecture,
        "batch_dice": False,
    }
    intensities = {"mean": -100.0, "std": 400.0, "median": 0.0, "min": -1000.0, "max": 1000.0,
                   "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}  # fmt: skip
    return {
        "dataset_name": "Dataset297_TotalSegmentator_total_3mm_1559subj",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 3.0, 3.0],
        "original_median_shape_after_transp": PATCH,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


if __name__ == "__main__":
    print(write_stand_in_weights(Path(sys.argv[1]), structures=UNSIDED_STRUCTURES))

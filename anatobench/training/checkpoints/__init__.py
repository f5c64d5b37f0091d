"""Checkpoints: whole or absent, verified when read, and enough to go on as if nothing had happened.

RUN/checkpoints/step_00000100/state.json             written last: progress, writer, size and checksum of every file
RUN/checkpoints/step_00000100/model.safetensors      PyTorch's: weights, canonical names and layouts
RUN/checkpoints/step_00000100/optimizer.safetensors  AdamW's moments, likewise
RUN/checkpoints/step_00000100/teacher.safetensors    a teacher's weights, where the run has one
RUN/checkpoints/step_00000100/orbax/                 JAX's: the same trees and names in Orbax's files
RUN/checkpoints/best.json                            the checkpoint with the best score on the validation split

`saving` writes them beside training, `reading` gives either form to either framework, `folder` knows what lies where,
`state_file` seals and verifies, `orbax_form` reads Orbax's arrays without JAX. docs/checkpoints.md says what is
promised.
"""

from anatobench.training.checkpoints.folder import BEST_FILE, FOLDER, KEPT, clear_leftovers, record_best, step_folder
from anatobench.training.checkpoints.progress import MODEL, Best, Checkpoint, Progress
from anatobench.training.checkpoints.reading import read_best, read_checkpoint, read_newest
from anatobench.training.checkpoints.saving import CheckpointSaver, save_checkpoint
from anatobench.training.checkpoints.state_file import STATE_FILE

__all__ = [
    "BEST_FILE",
    "FOLDER",
    "KEPT",
    "MODEL",
    "STATE_FILE",
    "Best",
    "Checkpoint",
    "CheckpointSaver",
    "Progress",
    "clear_leftovers",
    "read_best",
    "read_checkpoint",
    "read_newest",
    "record_best",
    "save_checkpoint",
    "step_folder",
]

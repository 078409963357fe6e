"""Trains the demo model, from nothing to the checkpoint that this repository carries.

``make demo-checkpoint`` runs it. Killed, it goes on from its last save when it is run again.
"""

import argparse
import shutil
from pathlib import Path

import torch

from ..engine.checkpoint import ADAPTERS
from ..engine.loading import load_network
from ..engine.processing import Processor
from ..finetuning.adapters import train_adapter
from .backbone import train_backbone
from .files import (
    new_towers,
    read_adapter_config,
    write_adapters,
    write_base,
    write_config,
    write_new_adapters,
    write_tokenizer,
)
from .pages.documents import documents
from .pages.phrases import corpus
from .pages.programs import program_corpus
from .tasks import TASKS

SEED = 0

# All parts of the original at small sizes: grouped queries, rotary sections, window and full attention.
SIZES = {
    "text_config": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.04,
        "rope_scaling": {"mrope_section": [8, 12, 12], "rope_type": "default", "type": "default"},
    },
    "vision_config": {
        "hidden_size": 128,
        "out_hidden_size": 256,
        "intermediate_size": 256,
        "depth": 4,
        "num_heads": 4,
        "fullatt_block_indexes": [1, 3],
        "initializer_range": 0.04,
    },
    "matryoshka_dims": [32, 64, 128, 256],
}
LORA_RANK = 16
VOCABULARY_SIZE = 1536

# 72 visual tokens, the limit for the pages and for larger images.
MAX_PIXELS = 72 * 28**2

BACKBONE_STEPS = 2800


def train_demo(directory, output, backbone_steps=BACKBONE_STEPS, task_steps=None, workers=2):
    """Trains the demo model.

    Args:
        directory: where the state of the training is kept
        output: the directory to write the checkpoint to
        backbone_steps: the number of steps of the backbone's training
        task_steps (None): the number of steps of each adapter's training; by default, each task's own
        workers (2): the number of processes that draw pages
    """
    directory = Path(directory)
    checkpoint = directory / "checkpoint"
    special_tokens = write_tokenizer(checkpoint, _texts(), VOCABULARY_SIZE)
    config = write_config(checkpoint, SIZES, special_tokens, MAX_PIXELS)
    processor = Processor(checkpoint)
    dims = config["matryoshka_dims"]

    towers = new_towers(config, SEED)
    end_token = special_tokens["<|im_end|>"]
    train_backbone(directory / "backbone", towers, processor, end_token, dims, backbone_steps, workers=workers)
    write_base(checkpoint, towers)
    write_new_adapters(checkpoint / ADAPTERS, towers, config["task_names"], LORA_RANK, SEED)

    adapters = {}
    for task in config["task_names"]:
        network = load_network(checkpoint, torch.device("cpu"), torch.float32)
        steps, batches = TASKS[task]
        steps = task_steps or steps
        adapters[task] = train_adapter(
            directory / task, network, task, processor, dims, batches(processor, steps, workers), steps
        )
    write_adapters(checkpoint / ADAPTERS, read_adapter_config(checkpoint / ADAPTERS), adapters)

    # The old checkpoint stays until the new one is complete.
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(checkpoint, output)


def _texts():
    yield from corpus(documents("train", 0, 6000))
    yield from program_corpus("train")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="the directory to write the checkpoint to")
    parser.add_argument("--directory", default="build/demo_training", help="where the state of the training is kept")
    arguments = parser.parse_args()
    train_demo(arguments.directory, arguments.output)


if __name__ == "__main__":
    main()

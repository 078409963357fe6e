"""Writes a checkpoint of random weights in the layout of the ``jinaai/jina-embeddings-v4`` repository.

The demo checkpoint that this repository carries starts here::

    python training/random_checkpoint.py demo_checkpoint

Its tokenizer is the byte-level one of the test fixtures, which spells any text in 512 tokens and knows Qwen2.5-VL's
special tokens.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from jina_embeddings_v4.jina_v4.backbone import Towers
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

FIXTURE = Path(__file__).parent.parent / "tests" / "fixtures" / "checkpoint"

TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)

# Every dimension is small; the parts are all there: grouped queries, rotary sections, window and full attention.
DEMO_SIZES = {
    "text_config": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_scaling": {"mrope_section": [4, 6, 6], "rope_type": "default", "type": "default"},
    },
    "vision_config": {
        "hidden_size": 64,
        "out_hidden_size": 128,
        "intermediate_size": 128,
        "depth": 4,
        "num_heads": 4,
        "fullatt_block_indexes": [1, 3],
    },
    "matryoshka_dims": [16, 32, 64, 128],
}
DEMO_LORA_RANK = 8


def write_checkpoint(directory, sizes, lora_rank, seed=0, dtype=torch.bfloat16):
    """Writes a checkpoint.

    Args:
        directory: the directory to write
        sizes: what to change in the fixture's ``config.json``: ``text_config``, ``vision_config``, ``matryoshka_dims``
        lora_rank: the rank of the adapters
        seed (0): the seed of the weights
        dtype (torch.bfloat16): the type in which to store them
    """
    directory = Path(directory)
    (directory / "adapters").mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(FIXTURE / name, directory / name)

    config = json.loads((FIXTURE / "config.json").read_text())
    config["text_config"] |= sizes["text_config"]
    config["vision_config"] |= sizes["vision_config"]
    config["matryoshka_dims"] = sizes["matryoshka_dims"]
    config |= {name: config["text_config"][name] for name in sizes["text_config"]}
    _write_json(directory / "config.json", config)

    torch.manual_seed(seed)
    model = Qwen2_5_VLModel(
        Qwen2_5_VLConfig(
            text_config=config["text_config"],
            vision_config=config["vision_config"],
            image_token_id=config["image_token_id"],
            video_token_id=config["video_token_id"],
        )
    )
    towers = Towers(model, nn.Linear(config["text_config"]["hidden_size"], config["multi_vector_projector_dim"]))
    _write_base(directory, towers, dtype)
    _write_adapters(directory, towers, config["task_names"], lora_rank, dtype)


def _write_base(directory, towers, dtype):
    """Writes two shards: the vision tower with the embeddings, and the rest."""
    shards = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
    for key, tensor in towers.state_dict().items():
        name = key.removeprefix("model.") if key.startswith("model.visual.") else key.replace(".language_model.", ".")
        is_first = name.startswith("visual.") or "embed_tokens" in name
        shards[list(shards)[0 if is_first else 1]][name] = tensor.to(dtype).contiguous()

    for shard, tensors in shards.items():
        save_file(tensors, directory / shard, metadata={"format": "pt"})

    total = sum(tensor.numel() * tensor.element_size() for tensors in shards.values() for tensor in tensors.values())
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(directory / "model.safetensors.index.json", index)


def _write_adapters(directory, towers, tasks, rank, dtype):
    """Writes one adapter per task, all in one file, the task's name within the tensors' names."""
    settings = json.loads((FIXTURE / "adapters" / "adapter_config.json").read_text())
    settings |= {"r": rank, "lora_alpha": rank}
    _write_json(directory / "adapters" / "adapter_config.json", settings)

    names = ("r", "lora_alpha", "target_modules", "exclude_modules")
    config = LoraConfig(**{name: settings[name] for name in names})
    network, tensors = None, {}
    for task in tasks:
        if network is None:
            network = PeftModel(towers, config, adapter_name=task)
        else:
            network.add_adapter(task, config)

        for key, tensor in get_peft_model_state_dict(network, adapter_name=task).items():
            matrix = "lora_A" if "lora_A" in key else "lora_B"
            # B starts at zero for training; here it is drawn, so that the tasks differ.
            weight = torch.randn_like(tensor) * tensor.shape[-1] ** -0.5
            tensors[key.replace(matrix, f"{matrix}.{task}")] = weight.to(dtype).contiguous()

    save_file(tensors, directory / "adapters" / "adapter_model.safetensors", metadata={"format": "pt"})


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="where to write the checkpoint")
    write_checkpoint(parser.parse_args().directory, DEMO_SIZES, DEMO_LORA_RANK)

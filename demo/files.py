"""Writes checkpoints in the layout of the ``jinaai/jina-embeddings-v4`` repository."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers, trainers
from torch import nn

from ..engine.checkpoint import ADAPTERS, WEIGHT_INDEX
from ..engine.towers import Towers
from ..finetuning.files import adapter_tensors, read_adapter_config, write_adapters, write_json

# The checkpoint that the package carries. Its settings, but for the sizes, are the pattern for new ones.
PATTERN = Path(__file__).parent / "checkpoint"


def write_tokenizer(directory, texts, vocabulary_size):
    """Trains a byte-level BPE tokenizer, split and normalised as Qwen2's, and writes its files.

    Args:
        directory: the checkpoint's directory
        texts: an iterable of strings
        vocabulary_size: the largest number of tokens, without the special ones

    Returns:
        the dict of the special tokens' ids, by their text
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    pattern = json.loads((PATTERN / "tokenizer.json").read_text())
    special = [token["content"] for token in sorted(pattern["added_tokens"], key=lambda token: token["id"])]

    tokenizer = Tokenizer.from_str(json.dumps(pattern | {"added_tokens": []}))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, min_frequency=4, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    ids = {token: len(model["vocab"]) + i for i, token in enumerate(special)}

    for token in pattern["added_tokens"]:
        token["id"] = ids[token["content"]]
    write_json(directory / "tokenizer.json", pattern | {"model": model})
    write_json(directory / "vocab.json", model["vocab"])
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, model["merges"])]) + "\n")
    write_json(directory / "added_tokens.json", ids)

    settings = json.loads((PATTERN / "tokenizer_config.json").read_text())
    decoder = settings["added_tokens_decoder"].values()
    settings["added_tokens_decoder"] = {str(ids[token["content"]]): token for token in decoder}
    write_json(directory / "tokenizer_config.json", settings)
    shutil.copyfile(PATTERN / "special_tokens_map.json", directory / "special_tokens_map.json")
    return ids


def write_config(directory, sizes, special_tokens, max_pixels):
    """Writes what a checkpoint says of its sizes.

    Args:
        directory: the checkpoint's directory
        sizes: what differs from the pattern: ``text_config``, ``vision_config``, ``matryoshka_dims``
        special_tokens: the dict of the special tokens' ids
        max_pixels: the area down to which images are resized by default

    Returns:
        the dict that was written to ``config.json``
    """
    directory = Path(directory)
    config = json.loads((PATTERN / "config.json").read_text())
    ids = {
        "bos_token_id": special_tokens["<|endoftext|>"],
        "eos_token_id": special_tokens["<|im_end|>"],
    }
    text = sizes["text_config"] | ids | {"vocab_size": max(special_tokens.values()) + 1}
    config["text_config"] |= text
    config["vision_config"] |= sizes["vision_config"]
    config["matryoshka_dims"] = sizes["matryoshka_dims"]
    config |= {name: config["text_config"][name] for name in text if name in config}
    config |= {
        "image_token_id": special_tokens["<|image_pad|>"],
        "video_token_id": special_tokens["<|video_pad|>"],
        "vision_start_token_id": special_tokens["<|vision_start|>"],
        "vision_end_token_id": special_tokens["<|vision_end|>"],
        "vision_token_id": special_tokens["<|vision_pad|>"],
    }
    write_json(directory / "config.json", config)

    images = json.loads((PATTERN / "preprocessor_config.json").read_text())
    images |= {"max_pixels": max_pixels, "size": images["size"] | {"longest_edge": max_pixels}}
    write_json(directory / "preprocessor_config.json", images)
    return config


def new_towers(config, seed):
    """Makes the network of a checkpoint's ``config.json``, with weights drawn from a seed."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

    torch.manual_seed(seed)
    model = Qwen2_5_VLModel(
        Qwen2_5_VLConfig(
            text_config=config["text_config"],
            vision_config=config["vision_config"],
            image_token_id=config["image_token_id"],
            video_token_id=config["video_token_id"],
            attn_implementation="sdpa",
        )
    )
    projector = nn.Linear(config["text_config"]["hidden_size"], config["multi_vector_projector_dim"])
    # The settings name bfloat16, the type of the stored weights.
    return Towers(model, projector).float()


def write_base(directory, towers):
    """Writes the base weights, in bfloat16 and two shards: the vision tower with the embeddings, and the rest."""
    directory = Path(directory)
    shards = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
    for key, tensor in towers.state_dict().items():
        name = key.removeprefix("model.") if key.startswith("model.visual.") else key.replace(".language_model.", ".")
        is_first = name.startswith("visual.") or "embed_tokens" in name
        shards[list(shards)[0 if is_first else 1]][name] = tensor.to(torch.bfloat16).contiguous()

    for shard, tensors in shards.items():
        save_file(tensors, directory / shard, metadata={"format": "pt"})

    total = sum(tensor.numel() * tensor.element_size() for tensors in shards.values() for tensor in tensors.values())
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    write_json(directory / WEIGHT_INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_new_adapters(directory, towers, tasks, rank, seed):
    """Writes adapters that change nothing yet, the same for each task: the common start of their training.

    Args:
        directory: the directory of the adapters
        towers: the :class:`engine.towers.Towers` that they are for
        tasks: the tasks' names
        rank: the adapters' rank
        seed: the seed of their first halves; the second are zero
    """
    from peft import LoraConfig, PeftModel

    settings = read_adapter_config(PATTERN / ADAPTERS) | {"r": rank, "lora_alpha": rank}
    names = ("r", "lora_alpha", "target_modules", "exclude_modules")
    torch.manual_seed(seed)
    network = PeftModel(towers, LoraConfig(**{name: settings[name] for name in names}), adapter_name="start")
    start = adapter_tensors(network, "start")
    write_adapters(directory, settings, dict.fromkeys(tasks, start))

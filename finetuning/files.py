"""Reads and writes adapters in the layout of the ``jinaai/jina-embeddings-v4`` repository."""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from ..engine.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from peft import PeftModel


def read_adapter_config(directory: str | os.PathLike) -> dict[str, Any]:
    """Returns the decoded ``adapter_config.json`` of a directory of adapters."""
    return json.loads((Path(directory) / ADAPTER_CONFIG).read_text())


def adapter_tensors(network: "PeftModel", task: str) -> dict[str, torch.Tensor]:
    """Returns the tensors of an adapter of a :class:`peft.PeftModel`, a dict by PEFT's names."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(network, adapter_name=task)


def write_adapters(
    directory: str | os.PathLike, settings: dict[str, Any], adapters: dict[str, dict[str, torch.Tensor]]
) -> None:
    """Writes adapters into one file, with the task's name inserted into the tensors' names.

    Args:
        directory: the directory of the adapters, in a checkpoint ``adapters``
        settings: the content of ``adapter_config.json``
        adapters: a dict, by task, of dicts of tensors by PEFT's names
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / ADAPTER_CONFIG, settings)
    tensors = {
        re.sub(r"(lora_[AB])\.", rf"\1.{task}.", name): tensor.detach().to(torch.bfloat16).contiguous().clone()
        for task, weights in adapters.items()
        for name, tensor in weights.items()
    }
    save_file(tensors, directory / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

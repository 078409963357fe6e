"""Checkpoint files -> networks.

All shapes in the files' headers are checked before a tensor is read, so a checkpoint loads completely or not at all.
"""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from .backbone import Backbone, Towers
from .checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ADAPTERS,
    WEIGHT_INDEX,
    CheckpointError,
    read_config,
    read_settings,
    weight_shards,
)
from .safetensors_files import Shape, check_shapes, open_safetensors, read_shapes
from .schema import ADAPTER, CONFIG, rope_parameters

if TYPE_CHECKING:
    from peft import PeftModel

_PROJECTOR = "multi_vector_projector."

# The layers with adapters: the language model's projections, and the multi-vector projector.
_ADAPTED = re.compile(
    r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)|multi_vector_projector"
)

# The numbers of layers in config.json, and the patterns of the weights' names that must match them.
_LAYERS = (
    ("text_config", "num_hidden_layers", re.compile(r"model\.(language_model\.)?layers\.\d+\.")),
    ("vision_config", "depth", re.compile(r"(model\.)?visual\.blocks\.\d+\.")),
)


def load_backbone(directory: str | os.PathLike, device: torch.device, dtype: torch.dtype) -> Backbone:
    """Loads a checkpoint for embedding.

    Args:
        directory: the checkpoint's directory
        device: a :class:`torch.device`
        dtype: a :class:`torch.dtype`. With ``torch.int8``, linear layers are int8, and the rest is float32

    Returns:
        a :class:`Backbone`

    Raises:
        CheckpointError: see :func:`load_network`
    """
    int8 = dtype == torch.int8
    # Layers to be rounded are read in bfloat16, as they are stored.
    return Backbone(load_network(directory, device, torch.bfloat16 if int8 else dtype), int8)


def load_network(directory: str | os.PathLike, device: torch.device, dtype: torch.dtype) -> "PeftModel":
    """Loads a checkpoint for training, or for transformers and PEFT to run.

    Args:
        directory: the checkpoint's directory
        device: a :class:`torch.device`
        dtype: a :class:`torch.dtype`

    Returns:
        a :class:`peft.PeftModel` of :class:`Towers`, with one adapter per task, frozen, in evaluation mode

    Raises:
        CheckpointError: naming the file and the tensor that is missing, damaged or of the wrong shape. Nothing is
            loaded then
    """
    from transformers import Qwen2_5_VLConfig

    raw = read_config(directory)
    shards = weight_shards(directory)
    _check_layers(raw, shards, directory)
    # Only checked settings are passed on. Texts have no begin or end token.
    text, vision = (
        {key: raw[part][key] for key in CONFIG[part] if raw[part].get(key) is not None}
        for part in ("text_config", "vision_config")
    )
    rope = rope_parameters(raw["text_config"])
    text |= {"bos_token_id": None, "eos_token_id": None}
    text["rope_parameters"] = {"rope_type": "default"} | {key: rope[key] for key in ("rope_theta", "mrope_section")}
    settings: dict[str, Any] = {
        "text_config": text,
        "vision_config": vision,
        "image_token_id": raw["image_token_id"],
        "video_token_id": raw["video_token_id"],
        "attn_implementation": "sdpa",
    }
    config = Qwen2_5_VLConfig(**settings)

    _check_base_shapes(config, raw["multi_vector_projector_dim"], shards, directory)

    towers = Towers(_load_qwen(shards, config, device, dtype), _load_projector(shards, device, dtype))
    return add_adapters(towers, Path(directory) / ADAPTERS, raw["task_names"]).requires_grad_(False).eval()


def _check_layers(raw, shards, directory):
    """Compares the numbers of layers with the weights. A damaged number could otherwise fill the memory."""
    for part, key, pattern in _LAYERS:
        stated = raw[part][key]
        count = len({match[0] for match in map(pattern.match, shards) if match})
        if count != stated:
            raise CheckpointError(
                f"{Path(directory) / 'config.json'} has {key!r} {stated}, but the weights have {count} such layers. "
                "They do not belong together"
            )


def _check_base_shapes(config, projector_dim, shards, directory):
    from transformers import Qwen2_5_VLModel

    hidden_size = config.text_config.hidden_size
    with torch.device("meta"):
        expected = {key: tuple(tensor.shape) for key, tensor in Qwen2_5_VLModel(config).state_dict().items()}
    expected |= {f"{_PROJECTOR}weight": (projector_dim, hidden_size), f"{_PROJECTOR}bias": (projector_dim,)}

    in_files = {shard: read_shapes(shard) for shard in sorted(set(shards.values()))}
    found, stored_in = {}, {}
    for key, shard in shards.items():
        if key not in in_files[shard]:
            raise CheckpointError(f"{shard} lacks the tensor {key!r}, which the index places there")

        found[_module_name(key)] = in_files[shard][key]
        stored_in[_module_name(key)] = shard

    check_shapes(found, expected, source=lambda name: stored_in.get(name, Path(directory) / WEIGHT_INDEX))


def _module_name(key):
    """Maps a stored name, in the layout before or since transformers 4.52, to the name in ``Qwen2_5_VLModel``."""
    key = re.sub(r"^model\.(?=visual\.|language_model\.)", "", key)
    return re.sub(r"^model\.", "language_model.", key)


def _load_qwen(shards, config, device, dtype):
    from transformers import Qwen2_5_VLModel

    # transformers gets the tensors, not the directory: there it would prefer a ``model.safetensors`` to the indexed
    # shards, and follow an ``adapter_config.json``.
    with contextlib.ExitStack() as stack:
        files = {shard: stack.enter_context(open_safetensors(shard)) for shard in set(shards.values())}
        model, report = Qwen2_5_VLModel.from_pretrained(
            None,
            config=config,
            # Slices, which are read one at a time, when they are needed.
            state_dict={
                _module_name(key): files[shard].get_slice(key)
                for key, shard in shards.items()
                if not key.startswith(_PROJECTOR)
            },
            dtype=dtype,
            device_map={"": device},
            attn_implementation="sdpa",
            output_loading_info=True,
        )

    unloaded = [str(key) for name in ("missing_keys", "mismatched_keys") for key in sorted(report[name])]
    if unloaded:
        raise CheckpointError(f"transformers left {len(unloaded)} tensors unloaded, {unloaded[0]!r} first")

    return model


def _load_projector(shards, device, dtype):
    tensors = {}
    for name in ("weight", "bias"):
        with open_safetensors(shards[_PROJECTOR + name], str(device)) as file:
            tensors[name] = file.get_tensor(_PROJECTOR + name).to(dtype)

    projector = nn.Linear(*reversed(tensors["weight"].shape), device="meta")
    projector.load_state_dict(tensors, assign=True)
    return projector


def add_adapters(
    network: "PeftModel | Towers", directory: str | os.PathLike, tasks: Iterable[str], prefix: str = ""
) -> "PeftModel":
    """Adds LoRA adapters to a network.

    One file holds all adapters, in tensors named ``<module>.lora_A.<task>.weight``.

    Args:
        network: a :class:`peft.PeftModel`, or :class:`Towers` to wrap in one
        directory: the directory of ``adapter_config.json`` and ``adapter_model.safetensors``
        tasks: the tasks whose adapters the file must hold, and no others
        prefix (""): the prefix of the adapters' names in the network, before the task

    Returns:
        the :class:`peft.PeftModel`

    Raises:
        CheckpointError: naming the file and the tensor that is missing, damaged or of the wrong shape
    """
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    settings = read_settings(Path(directory) / ADAPTER_CONFIG, ADAPTER)
    path = Path(directory) / ADAPTER_WEIGHTS
    found = read_shapes(path)
    for key, shape in found.items():
        # Checked before PEFT allocates adapters of that rank.
        if ".lora_A." in key and shape[:1] != (settings["r"],):
            raise CheckpointError(
                f"{path} holds {key!r} in shape {shape}, but {ADAPTER_CONFIG} has 'r' {settings['r']}: the files do "
                "not belong together"
            )

    expected_in_file: dict[str, Shape] = {}
    towers = cast(Towers, network.base_model.model) if isinstance(network, PeftModel) else network
    modules = _adapted_modules(towers, settings["target_modules"], Path(directory) / ADAPTER_CONFIG)
    device, dtype = towers.model.device, towers.model.dtype
    with open_safetensors(path, str(device)) as file:
        for task in tasks:
            name = prefix + task
            config = LoraConfig(
                r=settings["r"],
                lora_alpha=settings["lora_alpha"],
                target_modules=modules,
                use_rslora=settings.get("use_rslora", False),
                inference_mode=True,
            )
            if isinstance(network, PeftModel):
                network.add_adapter(name, config, autocast_adapter_dtype=False)
            else:
                network = PeftModel(network, config, adapter_name=name, autocast_adapter_dtype=False)

            adapter = get_peft_model_state_dict(network, adapter_name=name)
            stored = {key: re.sub(r"(lora_[AB])\.", rf"\1.{task}.", key) for key in adapter}
            expected = {stored[key]: tuple(tensor.shape) for key, tensor in adapter.items()}
            check_shapes({key: found[key] for key in expected if key in found}, expected, source=path)
            expected_in_file |= expected

            tensors = {key: file.get_tensor(stored[key]).to(dtype) for key in adapter}
            set_peft_model_state_dict(network, tensors, adapter_name=name)

    check_shapes(found, expected_in_file, source=path)

    # Not the whole network: rotary frequencies must stay in float32.
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(device, dtype)
    return cast(PeftModel, network)


def _adapted_modules(towers, targets, path):
    """Returns the names of the modules with adapters.

    They are the language model's projections and the projector, or those of them that ``target_modules`` lists. A
    pattern in ``target_modules`` is ignored, since it could match anything, and take forever.
    """
    names = [name for name, _ in towers.named_modules() if _ADAPTED.fullmatch(name)]
    if isinstance(targets, str):
        return names

    kinds = {name.rpartition(".")[2] for name in names}
    if not isinstance(targets, list) or not targets or not all(target in kinds for target in targets):
        raise CheckpointError(
            f"{path} has 'target_modules' {targets!r:.80}, expected a list of some of {', '.join(sorted(kinds))}, or a "
            "pattern for all of them"
        )

    return [name for name in names if name.rpartition(".")[2] in targets]


def adapter_tasks(directory: str | os.PathLike) -> list[str]:
    """Returns the tasks of the adapters in a directory.

    Raises:
        CheckpointError: if there are none
    """
    path = Path(directory) / ADAPTER_WEIGHTS
    matches = [re.search(r"\.lora_[AB]\.(?P<task>[^.]+)\.weight$", key) for key in read_shapes(path)]
    tasks = sorted({match["task"] for match in matches if match})
    if not tasks:
        raise CheckpointError(f"{path} holds no LoRA adapter")

    return tasks

"""Checkpoint files -> one backbone per process and device.

Every shape is checked against the headers of the files before the tensors are read, so that a checkpoint loads whole or
not at all.
"""

import contextlib
import re
import threading
import weakref
from pathlib import Path

import torch
from torch import nn

from .arguments import check_choice
from .backbone import Backbone, Towers
from .checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ADAPTERS,
    WEIGHT_INDEX,
    CheckpointError,
    check_shapes,
    open_safetensors,
    read_config,
    read_json,
    read_shapes,
    weight_shards,
)

PRECISIONS = ("auto", "float32", "bfloat16", "float16")

_PROJECTOR = "multi_vector_projector."

_SHARED = weakref.WeakValueDictionary()
_SHARED_LOCK = threading.Lock()


def resolve_device(device=None):
    """Chooses where to run.

    Args:
        device (None): ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"cpu"`` or a :class:`torch.device`. ``None`` means CUDA
            if there is any, else MPS, else the CPU

    Returns:
        a :class:`torch.device`, with its index where it is a GPU

    Raises:
        ValueError: if there is no such device
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"

    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is not allowed: expected 'cuda', 'cuda:<index>', 'mps' or 'cpu'"
        ) from error

    check_choice("device", device.type, ("cuda", "mps", "cpu"))
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device={str(device)!r} is not there: torch {torch.__version__} finds no CUDA GPU")
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"device={str(device)!r} is not there: this machine has {torch.cuda.device_count()} GPU(s)"
            )
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device='mps' is not there: torch finds no Apple GPU")

    return device


def resolve_dtype(precision, device):
    """Chooses the type that the model computes in.

    Args:
        precision: one of :data:`PRECISIONS`. ``"auto"`` is bfloat16 on a GPU that has it, float16 on an older one, and
            float32 on the CPU and MPS
        device: a :class:`torch.device`

    Returns:
        a :class:`torch.dtype`

    Raises:
        ValueError: if ``precision`` is not one of them
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "auto":
        if device.type != "cuda":
            return torch.float32
        with torch.cuda.device(device):
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

    return getattr(torch, precision)


def shared_backbone(directory, device, dtype):
    """Returns the process's one copy of a checkpoint on a device, loading it if no instance holds it.

    The copy is freed when the last instance that holds it goes.

    Args:
        directory: the checkpoint's directory
        device: a :class:`torch.device`
        dtype: a :class:`torch.dtype`

    Returns:
        a :class:`Backbone`
    """
    key = (str(Path(directory).resolve()), str(device), dtype)
    with _SHARED_LOCK:
        backbone = _SHARED.get(key)
        if backbone is None:
            backbone = _SHARED[key] = load_backbone(directory, device, dtype)

        return backbone


def shared_adapters(backbone, directory):
    """Adds adapters of one's own to a backbone, unless it holds them already.

    The base weights are not copied. A file that was written anew since is another one.

    Args:
        backbone: a :class:`Backbone`
        directory: the directory of ``adapter_config.json`` and ``adapter_model.safetensors``

    Returns:
        the dict of the adapters' names in the backbone, by task

    Raises:
        CheckpointError: naming the file and the tensor that is missing, damaged or does not fit
    """
    weights = (Path(directory) / ADAPTER_WEIGHTS).resolve()
    key = (str(weights), weights.stat().st_mtime_ns)
    with backbone.lock:
        if key not in backbone.added_adapters:
            prefix = f"added{len(backbone.added_adapters)}-"
            names = {task: prefix + task for task in adapter_tasks(directory)}
            try:
                add_adapters(backbone.network, directory, names, prefix).requires_grad_(False).eval()
            except Exception:
                for name in names.values():
                    if name in backbone.network.peft_config:
                        backbone.network.delete_adapter(name)
                raise

            backbone.added_adapters[key] = names

        return backbone.added_adapters[key]


def load_backbone(directory, device, dtype):
    """Loads a checkpoint.

    Args:
        directory: the checkpoint's directory
        device: a :class:`torch.device`
        dtype: a :class:`torch.dtype`

    Returns:
        a :class:`Backbone`, frozen, in evaluation mode

    Raises:
        CheckpointError: naming the file and the tensor that is missing, damaged or does not fit. Nothing is loaded by
            half
    """
    from transformers import Qwen2_5_VLConfig

    raw = read_config(directory)
    config = Qwen2_5_VLConfig(
        text_config=raw["text_config"],
        vision_config=raw["vision_config"],
        image_token_id=raw["image_token_id"],
        video_token_id=raw["video_token_id"],
        attn_implementation="sdpa",
    )

    shards = weight_shards(directory)
    _check_base_shapes(config, raw["multi_vector_projector_dim"], shards, directory)

    towers = Towers(_load_qwen(shards, config, device, dtype), _load_projector(shards, device, dtype))
    return Backbone(add_adapters(towers, Path(directory) / ADAPTERS, raw["task_names"]))


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
    """Maps a stored name, of the layout before or since transformers 4.52, to the name in ``Qwen2_5_VLModel``."""
    key = re.sub(r"^model\.(?=visual\.|language_model\.)", "", key)
    return re.sub(r"^model\.", "language_model.", key)


def _load_qwen(shards, config, device, dtype):
    from transformers import Qwen2_5_VLModel

    # transformers gets the tensors, not the directory: there it would prefer a ``model.safetensors`` to the shards that
    # the index names, and follow an ``adapter_config.json``.
    with contextlib.ExitStack() as stack:
        files = {shard: stack.enter_context(open_safetensors(shard)) for shard in set(shards.values())}
        model, report = Qwen2_5_VLModel.from_pretrained(
            None,
            config=config,
            # Slices, which are read one at a time.
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


def add_adapters(network, directory, tasks, prefix=""):
    """Adds LoRA adapters to a network.

    One file holds them all, in tensors named ``<module>.lora_A.<task>.weight``.

    Args:
        network: a :class:`peft.PeftModel`, or the :class:`Towers` to make one of
        directory: the directory of ``adapter_config.json`` and ``adapter_model.safetensors``
        tasks: the tasks whose adapters the file must hold, and none beside
        prefix (""): what to put before a task to name its adapter in the network

    Returns:
        the :class:`peft.PeftModel`

    Raises:
        CheckpointError: naming the file and the tensor that is missing, damaged or does not fit
    """
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    settings = _read_adapter_config(directory)
    path = Path(directory) / ADAPTER_WEIGHTS
    found = read_shapes(path)
    expected_in_file = {}

    towers = network.base_model.model if isinstance(network, PeftModel) else network
    device, dtype = towers.model.device, towers.model.dtype
    with open_safetensors(path, str(device)) as file:
        for task in tasks:
            name = prefix + task
            config = LoraConfig(
                r=settings["r"],
                lora_alpha=settings["lora_alpha"],
                target_modules=settings["target_modules"],
                exclude_modules=settings.get("exclude_modules"),
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
    return network.to(device=device, dtype=dtype)


def adapter_tasks(directory):
    """Returns the names of the tasks that a directory of adapters holds an adapter for.

    Raises:
        CheckpointError: if it holds none
    """
    path = Path(directory) / ADAPTER_WEIGHTS
    matches = [re.search(r"\.lora_[AB]\.(?P<task>[^.]+)\.weight$", key) for key in read_shapes(path)]
    tasks = sorted({match["task"] for match in matches if match})
    if not tasks:
        raise CheckpointError(f"{path} holds no LoRA adapter of a task")

    return tasks


def _read_adapter_config(directory):
    path = Path(directory) / ADAPTER_CONFIG
    settings = read_json(path)
    for key in ("r", "lora_alpha", "target_modules"):
        if not isinstance(settings, dict) or key not in settings:
            raise CheckpointError(f"{path} lacks {key!r}: it is not the configuration of LoRA adapters")

    return settings

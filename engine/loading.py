"""Checkpoint files -> networks.

All shapes in the files' headers are checked before a tensor is read, so a checkpoint is refused as a whole or not at
all. For embedding, the language model is read at once, the vision tower when the first image comes, and an adapter when
its task is first asked for.
"""

import contextlib
import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from .adapter_files import AdapterFile
from .backbone import Backbone
from .checkpoint import ADAPTERS, WEIGHT_INDEX, CheckpointError, read_config, weight_shards
from .safetensors_files import OpenFile, check_shapes, read_shapes
from .schema import CONFIG, rope_parameters
from .towers import Towers

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

_PROJECTOR = "multi_vector_projector."

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
        CheckpointError: see :class:`Weights`
    """
    int8 = dtype == torch.int8
    # Layers to be rounded are read in bfloat16, as they are stored.
    return Backbone(Weights(directory, device, torch.bfloat16 if int8 else dtype), int8)


def load_network(directory: str | os.PathLike, device: torch.device, dtype: torch.dtype) -> "PeftModel":
    """Loads a checkpoint for training, or for transformers and PEFT to run.

    Args:
        directory: the checkpoint's directory
        device: a :class:`torch.device`
        dtype: a :class:`torch.dtype`

    Returns:
        a :class:`peft.PeftModel` of :class:`Towers`, with one adapter per task, frozen, in evaluation mode

    Raises:
        CheckpointError: see :class:`Weights`
    """
    weights = Weights(directory, device, dtype)
    network: PeftModel | Towers = weights.towers()
    for task in weights.tasks:
        network = weights.add_adapter(network, task)
    return cast("PeftModel", network)


class Weights:
    """The weights of a checkpoint, which are checked at once and read by parts.

    The files stay open, so that all parts are of the same files, even if others take their names meanwhile.

    Args:
        directory: the checkpoint's directory
        device: the :class:`torch.device` to read to
        dtype: the :class:`torch.dtype` to convert to

    Raises:
        CheckpointError: naming the file and the tensor that is missing, damaged or of the wrong shape
    """

    def __init__(self, directory: str | os.PathLike, device: torch.device, dtype: torch.dtype) -> None:
        raw = read_config(directory)
        shards = weight_shards(directory)
        _check_layers(raw, shards, directory)
        self._device, self._dtype = device, dtype
        with torch.device("meta"):
            self._empty = _empty_towers(raw)
        _check_base_shapes(self._empty, shards, directory)
        self.tasks = tuple(raw["task_names"])
        self._adapters = AdapterFile(Path(directory) / ADAPTERS, self._empty, self.tasks)
        opened = {shard: OpenFile(shard) for shard in sorted(set(shards.values()))}
        self._files = [*opened.values(), self._adapters.file]
        # The file of each tensor and its name there, by its name in the model.
        self._places = {_module_name(key): (opened[shard], key) for key, shard in shards.items()}

    @property
    def rank(self) -> int:
        """The rank of the adapters."""
        return self._adapters.rank

    @property
    def changed(self) -> bool:
        """Whether a file was written to since it was opened."""
        return any(file.changed for file in self._files)

    def check(self) -> None:
        """Raises a :class:`CheckpointError` if weights that are in use lie in a file that was written to.

        On a CPU, those that need no conversion do, such as the tokens' embeddings.
        """
        for file in self._files:
            if file.is_mapped:
                file.check()

    # The parts are read without transformers, which would set torch's default dtype: other threads may be embedding.

    def text_towers(self) -> Towers:
        """Reads all but the vision tower and the adapters."""
        towers = copy.deepcopy(self._empty)
        towers.model.visual = cast(Any, None)
        language_model = towers.model.language_model
        self._fill(language_model, "language_model.")
        self._fill(towers.multi_vector_projector, _PROJECTOR)
        # Its frequencies are no part of the checkpoint.
        language_model.rotary_emb = type(language_model.rotary_emb)(config=language_model.config).to(self._device)
        return towers.requires_grad_(False).eval()

    def vision_tower(self) -> "Qwen2_5_VisionTransformerPretrainedModel":
        """Reads the vision tower. It has no rotary frequencies, which :mod:`engine.vision` computes."""
        tower = copy.deepcopy(self._empty.model.visual)
        self._fill(tower, "visual.")
        return tower.requires_grad_(False).eval()

    def add_adapter(self, network: "PeftModel | Towers", task: str) -> "PeftModel":
        """Reads an adapter and adds it to a network, see :meth:`engine.adapter_files.AdapterFile.add`."""
        return self._adapters.add(network, task)

    def _fill(self, module, prefix):
        """Reads a module's weights, in place of the empty ones."""
        places = {name: self._places[prefix + name] for name in module.state_dict()}
        tensors = {name: file.read(key, self._device, self._dtype) for name, (file, key) in places.items()}
        module.load_state_dict(tensors, assign=True)

    def towers(self) -> Towers:
        """Reads all but the adapters, by transformers' own loader, for its own towers to run."""
        from transformers import Qwen2_5_VLModel

        with _no_progress_bar():
            loaded: Any = Qwen2_5_VLModel.from_pretrained(
                None,
                config=self._empty.model.config,
                # Slices, which are read one at a time. transformers does not get the directory: there it would prefer
                # a ``model.safetensors`` to the indexed shards, and follow an ``adapter_config.json``.
                state_dict={
                    name: file.slice(key)
                    for name, (file, key) in self._places.items()
                    if not name.startswith(_PROJECTOR)
                },
                dtype=self._dtype,
                device_map={"": self._device},
                attn_implementation="sdpa",
                output_loading_info=True,
            )
        model, report = loaded
        unloaded = [str(key) for name in ("missing_keys", "mismatched_keys") for key in sorted(report[name])]
        if unloaded:
            raise CheckpointError(f"transformers left {len(unloaded)} tensors unloaded, {unloaded[0]!r} first")

        projector = copy.deepcopy(self._empty.multi_vector_projector)
        self._fill(projector, _PROJECTOR)
        return Towers(model, projector)


def _empty_towers(raw):
    """Makes the network of a ``config.json`` on torch's current device."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

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
    model = Qwen2_5_VLModel(Qwen2_5_VLConfig(**settings))
    return Towers(model, nn.Linear(raw["text_config"]["hidden_size"], raw["multi_vector_projector_dim"]))


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


def _check_base_shapes(towers, shards, directory):
    expected = {key.removeprefix("model."): tuple(tensor.shape) for key, tensor in towers.state_dict().items()}
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


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keeps transformers from showing a progress bar of its own beside FiftyOne's."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

"""LoRA adapters in files: checked at once against the network that they are for, and read one at a time."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import nn

from .checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CheckpointError, read_settings
from .safetensors_files import OpenFile, Shape, check_shapes, read_shapes
from .schema import ADAPTER
from .towers import Towers

if TYPE_CHECKING:
    from peft import PeftModel

# The layers with adapters: the language model's projections, and the multi-vector projector.
_ADAPTED = re.compile(
    r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)|multi_vector_projector"
)


class AdapterFile:
    """The LoRA adapters of a directory, which holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    One file holds all adapters, in tensors named ``<module>.lora_A.<task>.weight``. It stays open.

    Args:
        directory: the directory
        towers: the :class:`engine.towers.Towers` that the adapters are for
        tasks: the tasks whose adapters the file must hold, and no others

    Raises:
        CheckpointError: naming the file and the tensor that is missing, damaged or of the wrong shape
    """

    def __init__(self, directory: str | os.PathLike, towers: Towers, tasks: Iterable[str]) -> None:
        self._settings = read_settings(Path(directory) / ADAPTER_CONFIG, ADAPTER)
        self._modules = _adapted_modules(towers, self._settings["target_modules"], Path(directory) / ADAPTER_CONFIG)
        path = Path(directory) / ADAPTER_WEIGHTS
        self.file = OpenFile(path)
        found = read_shapes(path)
        for key, shape in found.items():
            # Checked before PEFT allocates adapters of that rank.
            if ".lora_A." in key and shape[:1] != (self.rank,):
                raise CheckpointError(
                    f"{path} holds {key!r} in shape {shape}, but {ADAPTER_CONFIG} has 'r' {self.rank}: the files do "
                    "not belong together"
                )

        expected: dict[str, Shape] = {}
        for name in self._modules:
            layer = cast(nn.Linear, towers.get_submodule(name))
            for task in tasks:
                expected[_stored_name(name, "lora_A", task)] = self.rank, layer.in_features
                expected[_stored_name(name, "lora_B", task)] = layer.out_features, self.rank
        check_shapes(found, expected, source=path)

    @property
    def rank(self) -> int:
        """The adapters' rank."""
        return self._settings["r"]

    def add(self, network: "PeftModel | Towers", task: str, name: str | None = None) -> "PeftModel":
        """Reads an adapter, and adds it to a network.

        Args:
            network: the :class:`engine.towers.Towers`, or the :class:`peft.PeftModel` around them
            task: the adapter's task
            name (None): what to call it in the network, by default like the task

        Returns:
            the :class:`peft.PeftModel`, frozen, in evaluation mode

        Raises:
            CheckpointError: if the file was written to since it was opened
        """
        from peft import LoraConfig, PeftModel, set_peft_model_state_dict

        name = task if name is None else name
        towers = cast(Towers, network.base_model.model) if isinstance(network, PeftModel) else network
        weight = towers.model.language_model.embed_tokens.weight
        device, dtype = weight.device, weight.dtype
        tensors = {
            f"base_model.model.{module}.{half}.weight": self.file.read(
                _stored_name(module, half, task), device, dtype, copy=True
            )
            for module in self._modules
            for half in ("lora_A", "lora_B")
        }
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self._settings["lora_alpha"],
            target_modules=self._modules,
            use_rslora=self._settings.get("use_rslora", False),
            inference_mode=True,
        )
        try:
            if isinstance(network, PeftModel):
                network.add_adapter(name, config, autocast_adapter_dtype=False)
            else:
                network = PeftModel(network, config, adapter_name=name, autocast_adapter_dtype=False)
            set_peft_model_state_dict(network, tensors, adapter_name=name)
            # Not the whole network: rotary frequencies must stay in float32.
            for parameter_name, parameter in network.named_parameters():
                if "lora_" in parameter_name and f".{name}." in parameter_name:
                    parameter.data = parameter.data.to(device, dtype)
        except BaseException:
            if isinstance(network, PeftModel):
                delete_adapters(network, [name])
            raise
        return cast(PeftModel, network.requires_grad_(False).eval())


def _stored_name(module, half, task):
    return f"base_model.model.{module}.{half}.{task}.weight"


def delete_adapters(network: "PeftModel | Towers", names: Iterable[str]) -> None:
    """Deletes adapters from a network. Names of adapters that it does not have are ignored."""
    for name in names:
        if name in getattr(network, "peft_config", {}):
            cast("PeftModel", network).delete_adapter(name)


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

"""The network as transformers and PEFT know it, before the engine takes its weights."""

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLModel


class Towers(nn.Module):
    """The module that the adapters were trained on. Adapter tensors are named after its two attributes."""

    def __init__(self, model: "Qwen2_5_VLModel", multi_vector_projector: nn.Linear) -> None:
        super().__init__()
        self.model = model
        self.multi_vector_projector = multi_vector_projector

"""Tokens -> hidden states: Qwen2.5-VL, one LoRA adapter per task, and the multi-vector projector.

The backbone is frozen, and holds all adapters. Which adapter is active is its only state. A lock guards it, because all
model instances of a process share one copy of the weights.
"""

import contextlib
import itertools
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from .attention import Packing
from .decoder import Decoder
from .devices import exact_float32, free_cache, join_on_device, residual_dtype
from .graphs import GraphedDecoder, wants_graphs
from .images import ImageSettings, patchify
from .processing import Tokens
from .vision import VisionTower

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import Qwen2_5_VLModel

# Tokens per forward pass. On a CPU, larger batches are not faster.
_TOKEN_BUDGETS = {"mps": 4096, "cpu": 2048}

# On a GPU, 21 full pages take 3 GB. With twice as many, an H200 is 2% faster.
_GPU_TOKEN_BUDGET, _LARGE_GPU_TOKEN_BUDGET, _LARGE_GPU = 16384, 32768, 40 * 10**9


class Towers(nn.Module):
    """The module that the adapters were trained on. Adapter tensors are named after its two attributes."""

    def __init__(self, model: "Qwen2_5_VLModel", multi_vector_projector: nn.Linear) -> None:
        super().__init__()
        self.model = model
        self.multi_vector_projector = multi_vector_projector


class Backbone(nn.Module):
    """The frozen network with its adapters.

    Args:
        network: the result of :func:`engine.loading.load_network`. Takes ownership of its layers' weights; the network
            cannot run by itself afterwards
        int8 (False): whether to round the layers' weights to 8 bits, and to compute all else in float32
    """

    def __init__(self, network: "PeftModel", int8: bool = False) -> None:
        super().__init__()
        self.network = network
        self.lock = threading.Lock()
        # Adapters added to the checkpoint's own: the key of their files -> a weak reference to the user's
        # AdapterNames, and the adapters' names.
        self.added_adapters: dict[tuple, tuple[weakref.ref, tuple[str, ...]]] = {}
        self.adapter_numbers = itertools.count()
        # The most tokens in a forward pass.
        self.token_budget = _token_budget(self.device)
        if int8:
            self._cast_unquantized_to_float32()
        with torch.no_grad():
            self._vision_tower = VisionTower(self.towers.model.visual, int8)
            self._decoder = Decoder(self.towers, int8)
        self._graphed = GraphedDecoder(self._decoder)
        self._adapter: str | None = None
        # The layers' original tensors are garbage now: return their memory to other processes.
        free_cache(self.device)

    def _cast_unquantized_to_float32(self):
        """Casts norms and projector to float32. Embeddings stay as stored: few rows are read, and cast then."""
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

        self.towers.multi_vector_projector.float()
        for module in self.towers.model.modules():
            if isinstance(module, Qwen2_5_VLRMSNorm):
                module.float()

    @property
    def towers(self) -> Towers:
        """The network's :class:`Towers`, adapters included."""
        return cast(Towers, self.network.base_model.model)

    @property
    def hidden_size(self) -> int:
        """The dimensions of an untruncated single vector."""
        return self.towers.model.language_model.config.hidden_size

    @property
    def multi_vector_dim(self) -> int:
        """The dimensions of each row of a multi-vector."""
        return self.towers.multi_vector_projector.out_features

    @property
    def device(self) -> torch.device:
        """The :class:`torch.device` of the weights."""
        return self.towers.model.device

    def _exact(self):
        is_float32 = self._vision_tower.dtype == torch.float32
        return exact_float32 if is_float32 else contextlib.nullcontext()

    def reduce_token_budget(self, batch: Sequence[Tokens]) -> None:
        """Lowers the token budget to half of a batch that did not fit into memory.

        Args:
            batch: the list of :class:`engine.processing.Tokens` that did not fit
        """
        self.token_budget = min(self.token_budget, max(1, sum(len(tokens) for tokens in batch) // 2))

    @torch.inference_mode()
    def encode_vision(self, batch: Sequence[Tokens], image_settings: ImageSettings) -> torch.Tensor:
        """Runs a batch of images through the vision tower, which is the same for all adapters.

        Args:
            batch: a list of :class:`engine.processing.Tokens` of images
            image_settings: the :class:`engine.images.ImageSettings`

        Returns:
            a tensor ``(visual_tokens, hidden)``, of all images end to end
        """
        images = [tokens.image for tokens in batch if tokens.image is not None]
        sizes = [image.pixels.shape for image in images]
        pixels = join_on_device([image.pixels for image in images], self.device)
        patches = [
            patchify(part.view(size), image_settings).to(self._vision_tower.dtype)
            for part, size in zip(pixels.split([size.numel() for size in sizes]), sizes, strict=True)
        ]
        side = image_settings.patch_size
        grids = [(height // side, width // side) for _, height, width in sizes]
        with self._exact(), torch.cuda.device_of(pixels):
            return self._vision_tower(torch.cat(patches), grids)

    @torch.inference_mode()
    def encode_tokens(
        self, batch: Sequence[Tokens], adapter: str, visual: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs a batch of texts, or of images, through the language model under one adapter.

        Args:
            batch: a list of :class:`engine.processing.Tokens`, all of texts or all of images
            adapter: the name of the adapter to apply. The checkpoint's own are named after their tasks
            visual (None): for images, the result of :meth:`encode_vision`

        Returns:
            the hidden states ``(tokens, hidden)`` after the final norm and the projected tokens ``(tokens, 128)``, of
            all inputs end to end
        """
        ids, positions, places = self._tokens_on_device(batch)
        packing = Packing([len(tokens) for tokens in batch], self.device)

        embedded = self.towers.model.get_input_embeddings()(ids)
        embedded = embedded.to(residual_dtype(self._decoder.dtype))
        if visual is not None:
            embedded.index_copy_(0, places, visual.to(embedded.dtype))

        with self.lock, self._exact(), torch.cuda.device_of(embedded):
            self.use(adapter)
            is_short = (
                visual is None and self.device.type == "cuda" and wants_graphs() and GraphedDecoder.takes(packing)
            )
            return (self._graphed if is_short else self._decoder)(embedded, positions, packing)

    def _tokens_on_device(self, batch):
        """Returns the ids, the positions and the indexes of visual tokens, moved to the device in one copy."""
        ids = torch.cat([tokens.ids for tokens in batch])
        positions = torch.cat([tokens.positions for tokens in batch], dim=1)
        places = (ids == self.towers.model.config.image_token_id).nonzero().flatten()
        parts = join_on_device([ids, positions, places], self.device).split([len(ids), positions.numel(), len(places)])
        return parts[0], parts[1].view(3, -1), parts[2]

    def use(self, adapter: str) -> None:
        """Applies an adapter from now on.

        Args:
            adapter: its name
        """
        if adapter != self._adapter:
            # If the switch fails half-way, no adapter counts as applied.
            self._adapter = None
            with torch.inference_mode():
                self._decoder.use(adapter)
            self._adapter = adapter


def _token_budget(device):
    if device.type != "cuda":
        return _TOKEN_BUDGETS[device.type]

    is_large = torch.cuda.get_device_properties(device).total_memory >= _LARGE_GPU
    return _LARGE_GPU_TOKEN_BUDGET if is_large else _GPU_TOKEN_BUDGET

"""Tokens -> hidden states: Qwen2.5-VL, one LoRA adapter per task, and the multi-vector projector.

The backbone is frozen. All adapters are resident, and switching task changes which of them is active: the one piece of
state here, guarded by a lock, because one copy of the weights serves every model instance of the process.
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

# On a CPU, more than these win nothing.
_TOKEN_BUDGETS = {"mps": 4096, "cpu": 2048}

# On a GPU, 21 full pages take 3 GB. With twice as many, an H200 is 2% faster.
_GPU_TOKEN_BUDGET, _LARGE_GPU_TOKEN_BUDGET, _LARGE_GPU = 16384, 32768, 40 * 10**9


class Towers(nn.Module):
    """What the adapters were trained on. Its two names are part of every adapter tensor's name."""

    def __init__(self, model: "Qwen2_5_VLModel", multi_vector_projector: nn.Linear) -> None:
        super().__init__()
        self.model = model
        self.multi_vector_projector = multi_vector_projector


class Backbone(nn.Module):
    """The frozen network with its adapters.

    Args:
        network: what :func:`engine.loading.load_network` gave. The weights of its layers are taken out of it, and it
            can then no longer be run by itself
        int8 (False): whether to round the layers' weights to 8 bits and compute in float32 otherwise
    """

    def __init__(self, network: "PeftModel", int8: bool = False) -> None:
        super().__init__()
        self.network = network
        self.lock = threading.Lock()
        # The adapters that were added to the checkpoint's own: what file they come from -> a weak reference to who uses
        # them, and their names.
        self.added_adapters: dict[tuple, tuple[weakref.ref, tuple[str, ...]]] = {}
        self.adapter_numbers = itertools.count()
        # The tokens that a forward pass may have.
        self.token_budget = _token_budget(self.device)
        if int8:
            self._cast_unquantized_to_float32()
        with torch.no_grad():
            self._vision_tower = VisionTower(self.towers.model.visual, int8)
            self._decoder = Decoder(self.towers, int8)
        self._graphed = GraphedDecoder(self._decoder)
        self._adapter: str | None = None
        # What the weights took where they came from is for others to use.
        free_cache(self.device)

    def _cast_unquantized_to_float32(self):
        """Brings what is not rounded to float32: all but the layers, and the embeddings, of which few are looked up."""
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

        self.towers.multi_vector_projector.float()
        for module in self.towers.model.modules():
            if isinstance(module, Qwen2_5_VLRMSNorm):
                module.float()

    @property
    def towers(self) -> Towers:
        """The network's parts, a :class:`Towers`, with the adapters inside."""
        return cast(Towers, self.network.base_model.model)

    @property
    def hidden_size(self) -> int:
        """The dimensions of a single vector that is not truncated."""
        return self.towers.model.language_model.config.hidden_size

    @property
    def multi_vector_dim(self) -> int:
        """The dimensions of each row of a multi-vector."""
        return self.towers.multi_vector_projector.out_features

    @property
    def device(self) -> torch.device:
        """Where the weights are, a :class:`torch.device`."""
        return self.towers.model.device

    def _exact(self):
        is_float32 = self._vision_tower.dtype == torch.float32
        return exact_float32 if is_float32 else contextlib.nullcontext()

    def reduce_token_budget(self, batch: Sequence[Tokens]) -> None:
        """Keeps to less than what memory did not suffice for.

        Args:
            batch: the list of :class:`engine.processing.Tokens` that did not fit
        """
        self.token_budget = min(self.token_budget, max(1, sum(len(tokens) for tokens in batch) // 2))

    @torch.inference_mode()
    def encode_vision(self, batch: Sequence[Tokens], image_settings: ImageSettings) -> torch.Tensor:
        """Runs a batch of images through the vision tower, which no adapter changes.

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
            adapter: the name of the adapter to apply. The checkpoint's own are named as their tasks
            visual (None): for images, what :meth:`encode_vision` returned

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
        """The ids, the positions and the places of visual tokens, by one copy."""
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
            # A switch that fails half-way leaves no adapter that may be taken for granted.
            self._adapter = None
            with torch.inference_mode():
                self._decoder.use(adapter)
            self._adapter = adapter


def _token_budget(device):
    if device.type != "cuda":
        return _TOKEN_BUDGETS[device.type]

    is_large = torch.cuda.get_device_properties(device).total_memory >= _LARGE_GPU
    return _LARGE_GPU_TOKEN_BUDGET if is_large else _GPU_TOKEN_BUDGET

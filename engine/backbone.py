"""Tokens -> hidden states: Qwen2.5-VL, one LoRA adapter per task, and the multi-vector projector.

The backbone is frozen. Its only state is which adapter is active, and which parts of the weights are loaded. Locks
guard both, because all model instances of a process share one copy of the weights. Queries are answered while the
vision tower is loaded.
"""

import contextlib
import itertools
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from .decoder import Decoder
from .devices import exact_float32, free_cache, residual_dtype
from .graphs import GraphedDecoder, wants_graphs
from .images import ImageSettings, patchify
from .memory import is_out_of_memory
from .packing import Packing
from .processing import Tokens
from .towers import Towers
from .transfers import join_on_device
from .vision import VisionTower

if TYPE_CHECKING:
    from peft import PeftModel

    from .loading import Weights

# Tokens per forward pass. On a CPU, larger batches are not faster.
_TOKEN_BUDGETS = {"mps": 4096, "cpu": 2048}

# On a GPU, 21 full pages take 3 GB. With twice as many, an H200 is 2% faster.
_GPU_TOKEN_BUDGET, _LARGE_GPU_TOKEN_BUDGET, _LARGE_GPU = 16384, 32768, 40 * 10**9


class Backbone(nn.Module):
    """The frozen network with its adapters.

    The language model is loaded at once, the vision tower with the first image, and an adapter when it is first used.

    Args:
        weights: the :class:`engine.loading.Weights`
        int8 (False): whether to round the layers' weights to 8 bits, and to compute all else in float32
    """

    def __init__(self, weights: "Weights", int8: bool = False) -> None:
        super().__init__()
        self.weights = weights
        # With adapters, a PeftModel around the towers. Its layers' weights are taken, so it cannot run by itself.
        self.network: PeftModel | Towers = weights.text_towers()
        self.lock = threading.Lock()
        self._vision_tower: VisionTower | None = None
        self._vision_lock = threading.Lock()
        self._int8 = int8
        # Adapters added to the checkpoint's own: the key of their files -> a weak reference to the user's
        # AdapterNames, and the adapters' names.
        self.added_adapters: dict[tuple, tuple[weakref.ref, tuple[str, ...]]] = {}
        self.adapter_numbers = itertools.count()
        # The most tokens in a forward pass.
        self.token_budget = _token_budget(self.device)
        if int8:
            self._cast_unquantized_to_float32()
        with torch.no_grad():
            self._decoder = Decoder(self.towers, int8, weights.rank)
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
        """The network's :class:`Towers`, adapters included, without the vision tower."""
        return self.network if isinstance(self.network, Towers) else cast(Towers, self.network.base_model.model)

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

    def load_vision_tower(self) -> VisionTower:
        """Loads the vision tower, unless it is loaded.

        Returns:
            the :class:`engine.vision.VisionTower`

        Raises:
            CheckpointError: if its file was written to since the language model was loaded
            RuntimeError: if it does not fit into memory
        """
        with self._vision_lock:
            if self._vision_tower is None:
                try:
                    with _loading():
                        self._vision_tower = VisionTower(self.weights.vision_tower(), self._int8)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    raise RuntimeError(
                        f"The vision tower does not fit into memory beside the language model: {error}. Free memory, "
                        "or load the model with a smaller `precision`"
                    ) from error
                finally:
                    free_cache(self.device)
            return self._vision_tower

    def load_adapter(self, adapter: str) -> None:
        """Loads one of the checkpoint's adapters, unless it is loaded.

        Args:
            adapter: its name. That of an adapter that the checkpoint does not have is ignored

        Raises:
            CheckpointError: if its file was written to since the language model was loaded
        """
        with self.lock:
            self._load_adapter(adapter)

    def _load_adapter(self, adapter):
        if adapter in self.weights.tasks and adapter not in getattr(self.network, "peft_config", {}):
            with _loading():
                self.network = self.weights.add_adapter(self.network, adapter)

    def _exact(self):
        return exact_float32 if self._decoder.dtype == torch.float32 else contextlib.nullcontext()

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
        vision_tower = self.load_vision_tower()
        images = [tokens.image for tokens in batch if tokens.image is not None]
        sizes = [image.pixels.shape for image in images]
        pixels = join_on_device([image.pixels for image in images], self.device)
        patches = [
            patchify(part.view(size), image_settings).to(vision_tower.dtype)
            for part, size in zip(pixels.split([size.numel() for size in sizes]), sizes, strict=True)
        ]
        side = image_settings.patch_size
        grids = [(height // side, width // side) for _, height, width in sizes]
        with self._exact(), torch.cuda.device_of(pixels):
            return vision_tower(torch.cat(patches), grids)

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

        Raises:
            CheckpointError: if weights that are in use lie in a file that was written to
        """
        self.weights.check()
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
        """Applies an adapter from now on, and loads it if need be.

        Args:
            adapter: its name
        """
        self._load_adapter(adapter)
        if adapter != self._adapter:
            # If the switch fails half-way, no adapter counts as applied.
            self._adapter = None
            with torch.inference_mode():
                self._decoder.use(adapter)
            self._adapter = adapter


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """Makes ordinary tensors, also where a batch is being encoded, and keeps no gradients."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _token_budget(device):
    if device.type != "cuda":
        return _TOKEN_BUDGETS[device.type]

    is_large = torch.cuda.get_device_properties(device).total_memory >= _LARGE_GPU
    return _LARGE_GPU_TOKEN_BUDGET if is_large else _GPU_TOKEN_BUDGET

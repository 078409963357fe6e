"""Tokens -> hidden states: Qwen2.5-VL, one LoRA adapter per task, and the multi-vector projector.

The backbone is frozen. All adapters are resident, and switching task changes which of them is active: the one piece of
state here, guarded by a lock, because one copy of the weights serves every model instance of the process.
"""

import threading

import torch
from torch import nn

from .images import patchify


class Towers(nn.Module):
    """What the adapters were trained on. Its two names are part of every adapter tensor's name."""

    def __init__(self, model, multi_vector_projector):
        super().__init__()
        self.model = model
        self.multi_vector_projector = multi_vector_projector


class Backbone(nn.Module):
    """The frozen network with its adapters.

    Args:
        network: a :class:`peft.PeftModel` around :class:`Towers`, with one adapter per task
    """

    def __init__(self, network):
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.lock = threading.Lock()
        # The adapters that were added to the checkpoint's own: what file they come from -> task -> name.
        self.added_adapters = {}

    @property
    def towers(self):
        """The network's parts, a :class:`Towers`, with the adapters inside."""
        return self.network.base_model.model

    @property
    def hidden_size(self):
        """The dimensions of a single vector that is not truncated."""
        return self.towers.model.config.text_config.hidden_size

    @property
    def multi_vector_dim(self):
        """The dimensions of each row of a multi-vector."""
        return self.towers.multi_vector_projector.out_features

    @property
    def device(self):
        """Where the weights are, a :class:`torch.device`."""
        return self.towers.model.device

    @torch.inference_mode()
    def forward(self, batch, adapter, image_settings):
        """Runs a batch of texts, or a batch of images, through the network under one adapter.

        Inputs are padded on the right to the longest. Attention is causal, so no token sees the padding, and a row's
        results do not depend on its neighbours.

        Args:
            batch: a list of :class:`jina_v4.processing.Tokens`, all of texts or all of images
            adapter: the name of the adapter to apply. The checkpoint's own are named as their tasks
            image_settings: the :class:`jina_v4.images.ImageSettings`

        Returns:
            a list with, for each input, its hidden states ``(tokens, hidden)`` after the final norm and its projected
            tokens ``(tokens, 128)``, both on the device in the model's type
        """
        inputs = pad(batch, self.device)
        if batch[0].image is not None:
            inputs |= pixels(batch, image_settings, self.device, self.towers.model.dtype)

        with self.lock:
            if self.network.active_adapter != adapter:
                self.network.set_adapter(adapter, inference_mode=True)

            hidden_states = self.towers.model(**inputs, use_cache=False).last_hidden_state
            rows = hidden_states[inputs["attention_mask"].bool()]  # without padding
            projected = self.towers.multi_vector_projector(rows)

        lengths = [len(tokens) for tokens in batch]
        return list(zip(rows.split(lengths), projected.split(lengths), strict=True))


def pad(batch, device):
    """Lays a batch's tokens into rows of equal length, padded on the right.

    Args:
        batch: a list of N :class:`jina_v4.processing.Tokens`
        device: where to lay them

    Returns:
        the dict of the language model's ``input_ids`` and ``attention_mask`` ``(N, length)``, and ``position_ids``
        ``(3, N, length)``
    """
    length = max(len(tokens) for tokens in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    positions = torch.ones(3, len(batch), length, dtype=torch.long)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = tokens.ids
        mask[row, : len(tokens)] = 1
        positions[:, row, : len(tokens)] = tokens.positions

    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "position_ids": positions.to(device)}


def pixels(batch, settings, device, dtype):
    """Lays the patches of a batch's images end to end.

    Args:
        batch: a list of N :class:`jina_v4.processing.Tokens` of images
        settings: the :class:`jina_v4.images.ImageSettings`
        device: where to lay them
        dtype: the :class:`torch.dtype` of the patches

    Returns:
        the dict of the vision tower's ``pixel_values`` ``(patches, 1176)`` and ``image_grid_thw`` ``(N, 3)``
    """
    images = [tokens.image for tokens in batch]
    patches = [patchify(image.to(device), settings) for image in images]
    grids = [[1, *(side // settings.patch_size for side in image.pixels.shape[-2:])] for image in images]
    return {"pixel_values": torch.cat(patches).to(dtype), "image_grid_thw": torch.tensor(grids, device=device)}

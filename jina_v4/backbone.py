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
        self._lock = threading.Lock()

    @property
    def _towers(self):
        return self.network.base_model.model

    @property
    def hidden_size(self):
        """The dimensions of a single vector that is not truncated."""
        return self._towers.model.config.text_config.hidden_size

    @property
    def multi_vector_dim(self):
        """The dimensions of each row of a multi-vector."""
        return self._towers.multi_vector_projector.out_features

    @property
    def device(self):
        """Where the weights are, a :class:`torch.device`."""
        return self._towers.model.device

    @torch.inference_mode()
    def forward(self, batch, task, image_settings):
        """Runs a batch of texts, or a batch of images, through the network under one task's adapter.

        Inputs are padded on the right to the longest. Attention is causal, so no token sees the padding, and a row's
        results do not depend on its neighbours.

        Args:
            batch: a list of :class:`jina_v4.processing.Tokens`, all of texts or all of images
            task: the task whose adapter to apply
            image_settings: the :class:`jina_v4.images.ImageSettings`

        Returns:
            a list with, for each input, its hidden states ``(tokens, hidden)`` after the final norm and its projected
            tokens ``(tokens, 128)``, both on the device in the model's type
        """
        inputs = self._pad(batch)
        if batch[0].image is not None:
            inputs |= self._images(batch, image_settings)

        with self._lock:
            if self.network.active_adapter != task:
                self.network.set_adapter(task, inference_mode=True)

            hidden_states = self._towers.model(**inputs, use_cache=False).last_hidden_state
            rows = hidden_states[inputs["attention_mask"].bool()]  # without padding
            projected = self._towers.multi_vector_projector(rows)

        lengths = [len(tokens) for tokens in batch]
        return list(zip(rows.split(lengths), projected.split(lengths), strict=True))

    def _pad(self, batch):
        length = max(len(tokens) for tokens in batch)
        ids = torch.zeros(len(batch), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        positions = torch.ones(3, len(batch), length, dtype=torch.long)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens.ids
            mask[row, : len(tokens)] = 1
            positions[:, row, : len(tokens)] = tokens.positions

        return {
            "input_ids": ids.to(self.device),
            "attention_mask": mask.to(self.device),
            "position_ids": positions.to(self.device),
        }

    def _images(self, batch, settings):
        images = [tokens.image for tokens in batch]
        patches = [patchify(image.to(self.device), settings) for image in images]
        grids = [[1, *(side // settings.patch_size for side in image.pixels.shape[-2:])] for image in images]
        return {
            "pixel_values": torch.cat(patches).to(self._towers.model.dtype),
            "image_grid_thw": torch.tensor(grids, device=self.device),
        }

"""The forward pass for training: a batch of texts or pages to vectors with gradients.

It computes the same as the engine's backbone, but keeps the gradients, and can take the visual tokens of an earlier run
of the vision tower. The tower has no adapter, so its output does not change while adapters are trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from ..engine.images import ImageSettings, patchify

if TYPE_CHECKING:
    from ..engine.processing import Tokens
    from ..engine.towers import Towers


@dataclass
class Vectors:
    """The vectors of N texts or pages.

    Args:
        single: a tensor ``(N, hidden)``, pooled and not yet normalised, so that it can be truncated
        multi: a list of N tensors ``(tokens_i, 128)``, rows of length 1
        hidden_states: a tensor ``(N, longest, hidden)``, after the final norm
    """

    single: torch.Tensor
    multi: list[torch.Tensor]
    hidden_states: torch.Tensor

    def __getitem__(self, rows: slice) -> "Vectors":
        """Returns the vectors of some of the N texts or pages."""
        return Vectors(self.single[rows], self.multi[rows], self.hidden_states[rows])


def visual_tokens(towers: "Towers", batch: "Sequence[Tokens]", image_settings: ImageSettings) -> Sequence[torch.Tensor]:
    """Runs the vision tower.

    Args:
        towers: a :class:`engine.towers.Towers`
        batch: a list of N :class:`engine.processing.Tokens` of images
        image_settings: the :class:`engine.images.ImageSettings`

    Returns:
        a list of N tensors ``(visual_tokens_i, hidden)``
    """
    visual = towers.model.visual
    inputs = _pixels(batch, image_settings, visual.device, visual.dtype)
    merged = visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
    counts = inputs["image_grid_thw"].prod(dim=1) // image_settings.merge_size**2
    return merged.split(counts.tolist())


def embed(towers: "Towers", batch: "Sequence[Tokens]", visual: Sequence[torch.Tensor] | None = None) -> Vectors:
    """Runs the language model and the projector.

    Args:
        towers: a :class:`engine.towers.Towers`
        batch: a list of N :class:`engine.processing.Tokens`
        visual (None): for images, a list of the outputs of :func:`visual_tokens`

    Returns:
        :class:`Vectors`
    """
    inputs = _pad(batch, towers.model.device)
    ids, mask = inputs.pop("input_ids"), inputs["attention_mask"].bool()
    embedded = towers.model.get_input_embeddings()(ids)
    if visual is not None:
        # Padding is token 0, which is not the visual token.
        is_visual = ids == towers.model.config.image_token_id
        embedded = embedded.masked_scatter(is_visual[..., None], torch.cat(list(visual)).to(embedded.dtype))

    hidden_states = towers.model(inputs_embeds=embedded, use_cache=False, **inputs).last_hidden_state
    projected = normalize(towers.multi_vector_projector(hidden_states[mask]).float(), dim=-1)

    # The mean of the pooled tokens as one matrix product: the gradient of each slice would be a tensor of the size of
    # the whole batch.
    weights = torch.zeros(mask.shape, device=mask.device)
    for row, tokens in zip(weights, batch, strict=True):
        row[tokens.pooled] = 1 / (tokens.pooled.stop - tokens.pooled.start)
    single = torch.einsum("nl,nlh->nh", weights, hidden_states.float())
    return Vectors(single, list(projected.split([len(tokens) for tokens in batch])), hidden_states)


def _pad(batch, device):
    """Pads a batch's tokens on the right to equal length.

    Args:
        batch: a list of N :class:`engine.processing.Tokens`
        device: the device of the result

    Returns:
        a dict of the language model's ``input_ids`` and ``attention_mask`` ``(N, length)``, and ``position_ids``
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


def _pixels(batch, settings, device, dtype):
    """Concatenates the patches of a batch's images.

    Args:
        batch: a list of N :class:`engine.processing.Tokens` of images
        settings: the :class:`engine.images.ImageSettings`
        device: the device of the result
        dtype: the :class:`torch.dtype` of the patches

    Returns:
        a dict of the vision tower's ``pixel_values`` ``(patches, 1176)`` and ``image_grid_thw`` ``(N, 3)``
    """
    images = [tokens.image for tokens in batch]
    patches = [patchify(image.pixels.to(device), settings) for image in images]
    grids = [[1, *(side // settings.patch_size for side in image.pixels.shape[-2:])] for image in images]
    return {"pixel_values": torch.cat(patches).to(dtype), "image_grid_thw": torch.tensor(grids, device=device)}

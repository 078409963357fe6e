"""The ways in which the same weights are run elsewhere, written out plainly, to compare with."""

import torch
from jina_embeddings_v4.engine.elementwise import rotate
from jina_embeddings_v4.engine.images import patchify, resize_image
from jina_embeddings_v4.engine.pooling import multi_vectors, single_vectors
from jina_embeddings_v4.engine.vision import lay_out
from jina_embeddings_v4.finetuning.forward import embed, visual_tokens
from torch.nn.functional import normalize, scaled_dot_product_attention


def stock(network, processor, files, task="retrieval"):
    """transformers' own towers with PEFT's adapters, images side by side in one padded batch.

    Args:
        network: what :func:`engine.loading.load_network` gave
        processor: the :class:`engine.processing.Processor`
        files: a list of images, as :func:`engine.images.resize_image` takes them
        task ("retrieval"): the task

    Returns:
        the single vectors ``(files, hidden)`` and the multi-vectors, a list
    """
    settings, towers = processor.image_settings, network.base_model.model
    batch = [processor.image_tokens(resize_image(file, settings)) for file in files]
    network.set_adapter(task, inference_mode=True)
    with torch.inference_mode():
        vectors = embed(towers, batch, visual_tokens(towers, batch, settings))
    return normalize(vectors.single, dim=-1).cpu(), [rows.cpu() for rows in vectors.multi]


def integration(network, processor, files, task="retrieval"):
    """The original model code as the public FiftyOne integration calls it: one image at a time, float32 weights under
    bfloat16 autocast, each vision block under one mask over all patches, the hidden states of all layers kept, and the
    scores of the whole vocabulary computed for each token. The arguments are those of :func:`stock`.

    Returns:
        the single vectors ``(files, hidden)`` and the multi-vectors, a list
    """
    towers = network.base_model.model
    device = towers.model.device
    network.set_adapter(task, inference_mode=True)
    single, multi = [], []
    for file in files:
        tokens = processor.image_tokens(resize_image(file, processor.image_settings))
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16):
            visual = _vision_under_masks(towers.model.visual, tokens.image.pixels, processor.image_settings)
            ids = tokens.ids[None].to(device)
            embedded = towers.model.get_input_embeddings()(ids)
            embedded[ids == towers.model.config.image_token_id] = visual.to(embedded.dtype)
            outputs = towers.model(
                inputs_embeds=embedded,
                attention_mask=torch.ones_like(ids),
                position_ids=tokens.positions[:, None].to(device),
                use_cache=False,
                output_hidden_states=True,
            )
            torch.nn.functional.linear(outputs.last_hidden_state, towers.model.get_input_embeddings().weight)
            projected = towers.multi_vector_projector(outputs.hidden_states[-1][0])
        single.append(single_vectors(outputs.hidden_states[-1][0], [tokens.pooled])[0].cpu())
        multi.append(multi_vectors(projected).cpu())
    return torch.stack(single), multi


def _vision_under_masks(tower, pixels, settings):
    patches = patchify(pixels.to(tower.device), settings)
    grid = tuple(side // settings.patch_size for side in pixels.shape[1:])
    merge = settings.merge_size
    head_dim = tower.config.hidden_size // tower.config.num_heads
    layout = lay_out([grid], merge, tower.window_size // merge // tower.patch_size, head_dim, tower.device)
    masks = {packing: _same_sequence(packing, tower.device) for packing in (layout.windows, layout.images)}

    hidden_states = tower.patch_embed(patches).unflatten(0, (-1, merge**2))[layout.order].flatten(0, 1)
    for number, block in enumerate(tower.blocks):
        mask = masks[layout.images if number in tower.fullatt_block_indexes else layout.windows]
        vectors = block.attn.qkv(block.norm1(hidden_states)).unflatten(-1, (3, block.attn.num_heads, -1))
        query, key = (rotate(vectors[:, i], layout.cos, layout.sin) for i in (0, 1))
        query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, vectors[:, 2]))
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden_states = hidden_states + block.attn.proj(attended.transpose(0, 1).flatten(1))
        hidden_states = hidden_states + block.mlp(block.norm2(hidden_states))
    return tower.merger(hidden_states)[layout.places]


def _same_sequence(packing, device):
    owner = torch.repeat_interleave(torch.arange(len(packing.lengths)), torch.tensor(packing.lengths))
    return (owner[:, None] == owner).to(device)

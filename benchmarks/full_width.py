"""A checkpoint with random weights at the real model's widths, with any number of layers."""

import json
from pathlib import Path

import numpy as np
import torch
from jina_embeddings_v4.demo.files import (
    new_towers,
    write_base,
    write_config,
    write_new_adapters,
    write_tokenizer,
)
from jina_embeddings_v4.engine.checkpoint import ADAPTERS
from PIL import Image, ImageDraw

TEXT = {
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
}
VISION = {"hidden_size": 1280, "out_hidden_size": 2048, "intermediate_size": 3420, "num_heads": 16}
VOCABULARY, LORA_RANK, MAX_PIXELS = 151936, 32, 602112

# A page of 2.4 megapixels. The default limit resizes it to 896x672 pixels, or 768 visual tokens.
PAGE = (1792, 1344)


def write_checkpoint(directory, blocks, layers, device):
    """Writes a checkpoint, unless it is there.

    Args:
        directory: where to write it
        blocks: the number of vision blocks, 32 in the real model. Each eighth attends to the whole image
        layers: the number of layers of the language model, 36 in the real one
        device: where to draw the weights
    """
    directory = Path(directory)
    done = directory / "done"
    if done.exists():
        return

    special_tokens = write_tokenizer(directory, ["a b c"], 300)
    sizes = {
        "text_config": TEXT | {"num_hidden_layers": layers},
        "vision_config": VISION | {"depth": blocks, "fullatt_block_indexes": list(range(7, blocks, 8))},
        "matryoshka_dims": [128, 256, 512, 1024, 2048],
    }
    config = write_config(directory, sizes, special_tokens, MAX_PIXELS)
    config["vocab_size"] = config["text_config"]["vocab_size"] = VOCABULARY
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    towers = draw_weights(config, device)
    write_base(directory, towers)
    write_new_adapters(directory / ADAPTERS, towers, config["task_names"], LORA_RANK, 0)
    done.touch()


def draw_weights(config, device):
    """Draws a network's weights in bfloat16. In float32, those of the real model would not fit into 16 GB."""
    with torch.device("meta"):
        towers = new_towers(config, 0)
    towers = towers.to(torch.bfloat16).to_empty(device=device)
    torch.manual_seed(0)
    for name, parameter in towers.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
        else:
            torch.nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    return towers


def draw_pages(directory, count, size=PAGE):
    """Writes pages of text-like strokes as JPEG files.

    Returns:
        the list of their paths
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        path = directory / f"{size[0]}x{size[1]}-{number}.jpg"
        if not path.exists():
            generator = np.random.default_rng(number)
            page = Image.new("RGB", size[::-1], "white")
            draw = ImageDraw.Draw(page)
            for top in range(20, size[0] - 20, 14):
                left = 20
                while left < size[1] - 60:
                    width = int(generator.integers(8, 60))
                    draw.rectangle(
                        (left, top, left + width, top + 7), fill=tuple(generator.integers(0, 120, 3).tolist())
                    )
                    left += width + 6
            page.save(path, quality=90)
        paths.append(str(path))
    return paths


def language_weights(config):
    """Counts the weights of the language model that every text is multiplied by: all but the embeddings."""
    text = config["text_config"]
    hidden, key_heads = text["hidden_size"], text["num_key_value_heads"]
    key_value = 2 * key_heads * hidden // text["num_attention_heads"]
    return text["num_hidden_layers"] * hidden * (2 * hidden + key_value + 3 * text["intermediate_size"])


def work(config, visual_tokens, tokens):
    """Counts the floating-point operations that one page needs: adapters merged, no vocabulary.

    Args:
        config: the dict of ``config.json``
        visual_tokens: the page's visual tokens
        tokens: all of its tokens

    Returns:
        the numbers of the products by their sizes, a dict of ``(rows, inputs, outputs)``, and the operations of
        attention
    """
    vision, text = config["vision_config"], config["text_config"]
    patches, wide, deep = 4 * visual_tokens, vision["hidden_size"], vision["intermediate_size"]
    hidden, inner, blocks = text["hidden_size"], text["intermediate_size"], vision["depth"]
    layers, full = text["num_hidden_layers"], len(vision["fullatt_block_indexes"])
    head_dim = hidden // text["num_attention_heads"]
    products = {
        (patches, 1176, wide): 1,
        (patches, wide, 3 * wide): blocks,
        (patches, wide, wide): blocks,
        (patches, wide, deep): 2 * blocks,
        (patches, deep, wide): blocks,
        (visual_tokens, 4 * wide, 4 * wide): 1,
        (visual_tokens, 4 * wide, hidden): 1,
        (tokens, hidden, hidden + 2 * text["num_key_value_heads"] * head_dim): layers,
        (tokens, hidden, hidden): layers,
        (tokens, hidden, inner): 2 * layers,
        (tokens, inner, hidden): layers,
    }
    attention = 4 * wide * patches * (full * patches + (blocks - full) * 64) + 2 * hidden * tokens**2 * layers
    return products, attention

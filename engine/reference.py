"""The reference implementation for :mod:`engine.verification`, in float32.

It runs transformers' own Qwen2.5-VL, tokenizer and image processor, with PEFT's adapters, on one input at a time.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from .checkpoint import read_config
from .loading import load_network

_IMAGE_PROMPT = "<|im_start|>user\n<|vision_start|>{}<|vision_end|>Describe the image.<|im_end|>\n"


class Reference:
    """Runs the weights by transformers and PEFT, in float32."""

    def __init__(self, directory: str | os.PathLike, device: torch.device, settings: Mapping[str, Any]) -> None:
        from transformers import Qwen2Tokenizer, Qwen2VLImageProcessor

        self._device = device
        self._tasks = read_config(directory)["task_names"]
        self._tokenizer = Qwen2Tokenizer.from_pretrained(str(directory), local_files_only=True)
        self._processor = Qwen2VLImageProcessor.from_pretrained(str(directory), local_files_only=True)
        self._size = {"shortest_edge": settings["min_pixels"], "longest_edge": settings["max_pixels"]}
        self._merge = settings["merge_size"]
        self._network = load_network(directory, device, torch.float32)
        self._towers = self._network.base_model.model

    @torch.inference_mode()
    def embed(
        self, texts: Mapping[str, tuple[str, str]], images: Mapping[str, Image.Image]
    ) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
        """Embeds texts and images for all tasks.

        Returns:
            a dict of ``(single vector, multi-vector)``, float64 arrays, by ``(task, name)``
        """
        found = {}
        for task in self._tasks:
            self._network.set_adapter(task)
            for name, (text, prompt_name) in texts.items():
                # Text matching is symmetric: all texts are queries.
                prefix = "Passage" if prompt_name == "passage" and task != "text-matching" else "Query"
                ids = torch.tensor([self._tokenizer(f"{prefix}: {text}")["input_ids"]], device=self._device)
                found[task, name] = self._vectors({"input_ids": ids}, slice(None))
            for name, image in images.items():
                found[task, name] = self._embed_image(image)
        return found

    def _embed_image(self, image):
        inputs = self._processor(images=[image.convert("RGB")], size=self._size, return_tensors="pt").to(self._device)
        visual = int(inputs["image_grid_thw"].prod()) // self._merge**2
        prompt = _IMAGE_PROMPT.format("<|image_pad|>" * visual)
        ids = torch.tensor([self._tokenizer(prompt)["input_ids"]], device=self._device)
        is_visual = ids == self._towers.model.config.image_token_id
        first = int(is_visual[0].nonzero()[0])
        inputs = {**inputs, "input_ids": ids, "mm_token_type_ids": is_visual.int()}
        # The visual tokens and the two around them.
        return self._vectors(inputs, slice(first - 1, first + visual + 1))

    def _vectors(self, inputs, pooled):
        mask = torch.ones_like(inputs["input_ids"])
        hidden_states = self._towers.model(**inputs, attention_mask=mask, use_cache=False).last_hidden_state[0]
        single = normalize(hidden_states[pooled].double().mean(dim=0), dim=-1)
        multi = normalize(self._towers.multi_vector_projector(hidden_states).double(), dim=-1)
        return single.cpu().numpy(), multi.cpu().numpy()

"""Texts and images -> token ids and positions.

The model's input format:

- A text is ``"Query: <text>"`` or ``"Passage: <text>"``, without a chat template, begin or end token.
- An image is a fixed prompt around its visual tokens, one for each 2x2 block of 14x14 patches.
- Positions have three axes: time, height and width. They are equal in text, and follow the grid in an image.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch

from .arguments import check_choice, check_integer
from .checkpoint import CheckpointError, read_config
from .image_batch import ResizedImage
from .images import ImageSettings

PROMPT_NAMES = ("query", "passage")
MAX_LENGTH = 32768

_IMAGE_PROMPT = "<|im_start|>user\n<|vision_start|>{visual_tokens}<|vision_end|>Describe the image.<|im_end|>\n"


@dataclass(frozen=True)
class Tokens:
    """The input of the language model for one text or image.

    Args:
        ids: an int64 tensor ``(length,)``
        positions: an int64 tensor ``(3, length)``: time, height, width
        pooled: the slice of the tokens whose mean is the single vector
        own: the slice of the tokens of the text or image itself, without the prefix or prompt
        image (None): for an image, its :class:`ResizedImage`
    """

    ids: torch.Tensor
    positions: torch.Tensor
    pooled: slice
    own: slice
    image: ResizedImage | None = None

    def __len__(self) -> int:
        return len(self.ids)


class Processor:
    """Turns texts and images into :class:`Tokens`.

    Args:
        directory: the checkpoint's directory
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        from transformers import Qwen2Tokenizer

        config = read_config(directory)
        try:
            # Not AutoTokenizer, which would ask to run the repository's own Python code.
            self._tokenizer = Qwen2Tokenizer.from_pretrained(str(directory), local_files_only=True)
        except Exception as error:  # of many types, from several libraries
            raise CheckpointError(
                f"The tokenizer in {directory} cannot be read ({type(error).__name__}: {error}). Download "
                "tokenizer.json, tokenizer_config.json and its other files again"
            ) from error

        self.image_settings = ImageSettings.from_checkpoint(directory)

        before, after = _IMAGE_PROMPT.split("{visual_tokens}")
        self._before_image = self.ids(before)
        self._after_image = self.ids(after)
        self._visual_token = self.ids("<|image_pad|>")
        if self._visual_token.tolist() != [config["image_token_id"]]:
            raise CheckpointError(
                f"The tokenizer in {directory} reads <|image_pad|> as {self._visual_token.tolist()}, and config.json "
                f"as {config['image_token_id']}: they do not belong together"
            )
        if len(self._tokenizer) > config["text_config"]["vocab_size"]:
            raise CheckpointError(
                f"The tokenizer in {directory} has {len(self._tokenizer)} tokens, and the model that config.json "
                f"describes {config['text_config']['vocab_size']}: they do not belong together"
            )

        self._prefix_lengths = {prefix: len(self.ids(prefix)) for prefix in ("Query:", "Passage:")}

    def ids(self, text: str, **options: Any) -> torch.Tensor:
        """Returns the token ids of a text, without a prefix: an int64 tensor ``(length,)``."""
        return torch.tensor(self._tokenizer(text, **options)["input_ids"], dtype=torch.long)

    def text_tokens(
        self, text: str, task: str, prompt_name: str | None = "query", max_length: int | None = None
    ) -> Tokens:
        """Tokenizes a text.

        Args:
            text: a string, which may be empty
            task: the task. Text matching is symmetric, so all its texts are queries
            prompt_name ("query"): ``"query"`` or ``"passage"``; ``None`` means ``"query"``
            max_length (None): the number of tokens to keep, prefix included, from 1 to 32768. ``None`` keeps 32768

        Returns:
            the text's :class:`Tokens`

        Raises:
            TypeError: if the text is not a string
            ValueError: if an argument is not allowed
        """
        if not isinstance(text, str):
            raise TypeError(f"Expected a text, found {type(text).__name__}: {text!r:.80}")
        if prompt_name is not None:
            check_choice("prompt_name", prompt_name, PROMPT_NAMES)
        check_integer("max_length", max_length, 1, MAX_LENGTH, or_none=True)

        is_passage = prompt_name == "passage" and task != "text-matching"
        prefix = "Passage:" if is_passage else "Query:"
        # Not truncated by the tokenizer, whose limit is shared by all threads.
        ids = self.ids(f"{prefix} {text}", verbose=False)[: max_length or MAX_LENGTH]
        own = slice(min(self._prefix_lengths[prefix], len(ids)), len(ids))
        return Tokens(ids, torch.arange(len(ids)).expand(3, -1), slice(0, len(ids)), own)

    def token_texts(self, tokens: Tokens) -> list[str]:
        """Decodes each of a text's own tokens to a string.

        A character of several tokens is decoded to a replacement character in each.

        Args:
            tokens: the text's :class:`Tokens`
        """
        return [self._tokenizer.decode([token]) for token in tokens.ids[tokens.own].tolist()]

    def grid(self, image: ResizedImage) -> tuple[int, int]:
        """Returns the grid of an image's visual tokens, a ``(rows, columns)`` tuple.

        The tokens are in row-major order.

        Args:
            image: a :class:`ResizedImage`
        """
        height, width = image.pixels.shape[-2:]
        return height // self.image_settings.token_size, width // self.image_settings.token_size

    @property
    def tokens_around_image(self) -> tuple[int, int]:
        """The numbers of the image prompt's tokens before and after the visual tokens."""
        return len(self._before_image), len(self._after_image)

    def image_tokens(self, image: ResizedImage) -> Tokens:
        """Builds the model's image prompt with an image's visual tokens.

        Args:
            image: a :class:`ResizedImage`

        Returns:
            the image's :class:`Tokens`. The single vector pools the visual tokens and the two around them
        """
        rows, columns = self.grid(image)
        before, after = self._before_image, self._after_image
        ids = torch.cat([before, self._visual_token.expand(rows * columns), after])

        # The grid's positions begin after the text's. The text after it begins at the grid's longer side.
        start, end = len(before), len(before) + max(rows, columns)
        grid = torch.stack(
            [
                torch.full((rows, columns), start),
                torch.arange(start, start + rows)[:, None].expand(rows, columns),
                torch.arange(start, start + columns).expand(rows, columns),
            ]
        )
        positions = torch.cat(
            [
                torch.arange(start).expand(3, -1),
                grid.reshape(3, -1),
                torch.arange(end, end + len(after)).expand(3, -1),
            ],
            dim=1,
        )
        own = slice(start, start + rows * columns)
        return Tokens(ids, positions, slice(own.start - 1, own.stop + 1), own, image)

"""Late interaction -> class scores -> probabilities.

Late interaction (ColBERT, arXiv 2004.12832) compares each token of a class text with each token of an image, and keeps
the best match of each class token: MaxSim. Their sum favours long class names. Divided by the number of class tokens,
it is the mean of the best cosines, in ``[-1, 1]``, which does not favour them.
"""

from collections.abc import Sequence

import numpy as np
import torch

from .memory import in_halves

MultiVectors = Sequence[np.ndarray] | Sequence[torch.Tensor]

_MAX_SIMILARITIES = 2**26  # similarities in memory at a time: 256 MiB in float32


class TokenSet:
    """The multi-vectors of all class texts, concatenated, so that one product scores them all.

    Args:
        multi_vectors: a list of float32 arrays or tensors ``(tokens_i, 128)``, one per class
        device ("cpu"): the device to score on
    """

    def __init__(self, multi_vectors: MultiVectors, device: str | torch.device = "cpu") -> None:
        self.lengths = torch.tensor([len(vectors) for vectors in multi_vectors], device=device)
        self.owner = torch.repeat_interleave(torch.arange(len(multi_vectors), device=device), self.lengths)
        self.vectors = torch.cat([torch.as_tensor(vectors) for vectors in multi_vectors]).to(device)

    def __len__(self) -> int:
        return len(self.lengths)


def maxsim(images: MultiVectors, classes: TokenSet, normalize: bool = True) -> torch.Tensor:
    """Scores images against classes by late interaction.

    Args:
        images: a list of float32 arrays or tensors ``(tokens_i, 128)`` with rows of length 1
        classes: a :class:`TokenSet`
        normalize (True): whether to divide by the number of class tokens, which gives scores in ``[-1, 1]``. Otherwise
            they are ColBERT's plain sums

    Returns:
        a float32 tensor ``(images, classes)``
    """
    scores = torch.stack(in_halves(lambda batch: list(_sums_of_maxima(batch, classes)), images))
    return scores / classes.lengths if normalize else scores


def _sums_of_maxima(images, classes):
    device = classes.vectors.device
    pages = torch.nn.utils.rnn.pad_sequence([torch.as_tensor(image) for image in images], batch_first=True).to(device)
    lengths = torch.tensor([len(image) for image in images], device=device)
    padding = torch.arange(pages.shape[1], device=device) >= lengths[:, None]

    scores = torch.zeros(len(images), len(classes), device=device)
    step = max(1, _MAX_SIMILARITIES // padding.numel())
    for vectors, owner in zip(classes.vectors.split(step), classes.owner.split(step), strict=True):
        similarities = (pages @ vectors.T).masked_fill_(padding[..., None], -torch.inf)
        scores.index_add_(1, owner, similarities.amax(dim=1))

    return scores


def class_logits(scores: torch.Tensor, temperature: float) -> torch.Tensor:
    """Converts scores to logits whose softmax cannot overflow.

    Args:
        scores: a float32 tensor ``(images, classes)``
        temperature: the softmax temperature, over 0. Smaller values give more confident probabilities

    Returns:
        a float32 tensor ``(images, classes)``, at most 0, exactly 0 for each image's best class
    """
    logits = scores / temperature
    return logits - logits.amax(dim=-1, keepdim=True)

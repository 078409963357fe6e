"""Pages with captions, and a CLIP of FiftyOne's own class, built here with random weights.

FiftyOne is imported in the fixtures, not before: pytest may read this file before the suite's settings are in place.
"""

import gzip

import pytest


@pytest.fixture(scope="session")
def captioned_files(tmp_path_factory):
    """Forty page files, with a caption in English and one in German of each."""
    from jina_embeddings_v4.demo.pages.documents import documents
    from jina_embeddings_v4.demo.pages.phrases import caption, phrase
    from jina_embeddings_v4.demo.pages.rendering import draw_document

    folder = tmp_path_factory.mktemp("captioned")
    pages = []
    for i, document in enumerate(documents("test", 30_000, 30_040)):
        path = str(folder / f"{i:02}.png")
        draw_document(document, i).save(path)
        pages.append((path, caption(document), phrase(document.facts(), "de")))
    return pages


@pytest.fixture
def captioned(captioned_files):
    """A dataset of those pages, with the fields ``caption`` and ``german``."""
    import fiftyone as fo

    dataset = fo.Dataset()
    dataset.add_samples(
        [fo.Sample(filepath=path, caption=english, german=german) for path, english, german in captioned_files]
    )
    yield dataset
    dataset.delete()


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    import torch
    from fiftyone.utils.clip.model import CLIP
    from fiftyone.utils.clip.zoo import TorchCLIPModel, TorchCLIPModelConfig

    folder = tmp_path_factory.mktemp("clip")
    with gzip.open(folder / "vocabulary.txt.gz", "wt") as file:
        file.write("#version: of single characters alone")

    class RandomCLIP(TorchCLIPModel):
        def _download_model(self, config):
            pass

        def _load_model(self, config):
            torch.manual_seed(51)
            return CLIP(
                embed_dim=48,
                image_resolution=64,
                vision_layers=2,
                vision_width=64,
                vision_patch_size=16,
                context_length=77,
                vocab_size=514,
                transformer_width=64,
                transformer_heads=2,
                transformer_layers=2,
            ).eval()

    config = {
        "tokenizer_base_filename": str(folder / "vocabulary.txt.gz"),
        "tokenizer_base_url": "",
        "context_length": 77,
        "text_prompt": "A photo of",
        "classes": ["page"],
        "image_size": [64, 64],
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
        "embeddings_layer": "visual",
        "use_half_precision": False,
        "output_processor_cls": "fiftyone.utils.torch.ClassifierOutputProcessor",
    }
    return RandomCLIP(TorchCLIPModelConfig(config))

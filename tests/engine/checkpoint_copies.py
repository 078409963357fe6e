"""Copies of the tiny checkpoint, edited and loaded."""

import json

import numpy as np
from jina_embeddings_v4.engine.encoder import Encoder
from safetensors.torch import load_file, save_file


def load(directory, **kwargs):
    return Encoder.from_checkpoint(directory, **({"device": "cpu", "precision": "float32"} | kwargs))


def edit_json(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def edit_tensors(path, edit):
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def assert_same_embeddings(found, expected, image):
    for task in expected.tasks:
        np.testing.assert_array_equal(
            found.encode_texts(["wörld 日本"], task).single, expected.encode_texts(["wörld 日本"], task).single
        )
    np.testing.assert_array_equal(found.encode_images([image]).multi, expected.encode_images([image]).multi)

"""Finds and labels images with Jina Embeddings v4 in FiftyOne.

``make demo`` runs this with a FiftyOne of its own. To run it with yours, register this repository first, with
``fiftyone.zoo.register_zoo_model_source()``.
"""

import argparse
import os
import shutil
import time
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import fiftyone as fo
import fiftyone.brain as fob
import fiftyone.zoo as foz
from pages import KINDS, draw_page

NAME = "jina-embeddings-v4-demo"
DEMO_MODEL = "jina-embeddings-v4-demo"
QUERIES = ("an invoice from 2024", "a bar chart of sales by quarter", "a cat looking at the camera")
DOCUMENT_TYPES = [*KINDS, "scanned page", "photograph"]

# Images that packages carry which FiftyOne needs anyway.
SCIKIT_IMAGE, SCIKIT_LEARN = files("skimage") / "data", files("sklearn") / "datasets" / "images"
SCANS = (SCIKIT_IMAGE / "page.png", SCIKIT_IMAGE / "text.png")
PHOTOGRAPHS = (
    *(SCIKIT_IMAGE / name for name in ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg")),
    *(SCIKIT_LEARN / name for name in ("china.jpg", "flower.jpg")),
)

seconds = {}


def main():
    arguments = parse_arguments()

    with timed("Making the dataset"):
        if arguments.images:
            folder = os.path.expanduser(arguments.images)
            dataset = fo.Dataset.from_images_dir(folder, name=NAME, persistent=True, overwrite=True)
        else:
            dataset = make_labelled_dataset()

    if not dataset:
        raise SystemExit(f"There are no images in {arguments.images}")

    with timed("Loading the model"):
        model = foz.load_zoo_model(arguments.model)

    with timed("Embedding the images"):
        dataset.compute_embeddings(model, embeddings_field="embedding", batch_size=8)

    # The index takes the vectors that are there. From now on, the App can search by text and by image, too.
    with timed("Indexing them for search"):
        fob.compute_similarity(dataset, model=arguments.model, embeddings_field="embedding", brain_key="search")

    with timed("Searching"):
        results = {query: dataset.sort_by_similarity(query, k=5, brain_key="search") for query in QUERIES}

    with timed("Classifying the images"):
        model.classes = DOCUMENT_TYPES
        model.text_prompt = "An image of:"
        dataset.apply_model(model, label_field="zero_shot", batch_size=8)

    # The App's Embeddings panel shows this map of the dataset.
    with timed("Mapping them in 2D"):
        fob.compute_visualization(dataset, embeddings="embedding", method="pca", brain_key="map")

    print_summary(dataset, results, arguments.model)


def make_labelled_dataset():
    """Writes image files in one folder per document type, and makes a dataset of them."""
    folder = Path(fo.config.default_dataset_dir) / NAME
    for kind in DOCUMENT_TYPES:
        (folder / kind).mkdir(parents=True, exist_ok=True)

    for kind in KINDS:
        for number in (1, 2, 3):
            draw_page(kind, number).save(folder / kind / f"{kind.replace(' ', '-')}-{number}.png")

    for kind, paths in (("scanned page", SCANS), ("photograph", PHOTOGRAPHS)):
        for path in paths:
            shutil.copy(path, folder / kind)

    return fo.Dataset.from_dir(
        dataset_dir=str(folder),
        dataset_type=fo.types.ImageClassificationDirectoryTree,
        label_field="document_type",
        name=NAME,
        persistent=True,
        overwrite=True,
    )


def print_summary(dataset, results, model_name):
    labelled = dataset.has_field("document_type")
    print(f"\n{len(dataset)} images, by {model_name}")

    print("\nSeconds")
    for step, duration in seconds.items():
        print(f"  {step:26} {duration:6.1f}")

    for query, view in results.items():
        print(f'\nThe images nearest to "{query}"')
        for rank, sample in enumerate(view, start=1):
            kind = sample.document_type.label if labelled else ""
            print(f"  {rank}. {sample.filename:24} {kind}".rstrip())

    print("\nZero-shot labels")
    counts = dataset.count_values("zero_shot.label")
    for label in sorted(counts, key=counts.get, reverse=True):
        print(f"  {label or '(unreadable)':26} {counts[label]:6}")

    if labelled:
        evaluation = dataset.evaluate_classifications("zero_shot", gt_field="document_type", eval_key="evaluation")
        accuracy, chance = evaluation.metrics()["accuracy"], 1 / len(DOCUMENT_TYPES)
        print(f"  {accuracy:.0%} of them are right; blind guessing gets {chance:.0%}")

    if model_name == DEMO_MODEL:
        print("\nThe demo model's weights are random for now: what it finds and labels means nothing yet.")

    print("\nTo look at the dataset in the FiftyOne App: make app")


def parse_arguments():
    parser = argparse.ArgumentParser(description="Finds and labels images with Jina Embeddings v4 in FiftyOne.")
    parser.add_argument("--images", help="a folder of your own images, in place of the ones that this script makes")
    parser.add_argument("--model", default=DEMO_MODEL, help="the model's name in FiftyOne's model zoo")
    return parser.parse_args()


@contextmanager
def timed(step):
    print(step, flush=True)
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


if __name__ == "__main__":
    main()

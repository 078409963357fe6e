"""Finds and labels images with Jina Embeddings v4 in FiftyOne.

``make demo`` runs this with a FiftyOne of its own. To run it with yours, register this repository first, with
``fiftyone.zoo.register_zoo_model_source()``.
"""

import argparse
import time
from contextlib import contextmanager
from pathlib import Path

import fiftyone as fo
import fiftyone.brain as fob
import fiftyone.zoo as foz
from jina_embeddings_v4.demo.pages.documents import TYPES, documents
from jina_embeddings_v4.demo.pages.phrases import caption
from jina_embeddings_v4.demo.pages.rendering import draw_document
from pictures import draw_contact_sheet, draw_map

NAME = "jina-embeddings-v4-demo"
DEMO_MODEL = "jina-embeddings-v4-demo"

# Pages of the test split that the benchmarks do not use.
PAGES = range(10_000, 10_140)

# What to look for, and the facts that make a page the right one.
QUERIES = {
    "an invoice with a blue stamp": [("type", "invoice"), ("mark", "stamp", "blue", None)],
    "a purple pie chart with three slices": [("type", "pie chart"), ("colour", "purple"), ("slices", 3)],
    "a page headed Falcon": [("headline", "Falcon")],
    "une lettre avec une signature violette": [("type", "letter"), ("mark", "signature", "purple", None)],
    "ein Formular mit einem blauen Stern": [("type", "form"), ("mark", "star", "blue", None)],
}


def main():
    arguments = parse_arguments()
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)

    with timed("Making the dataset"):
        dataset = make_dataset(arguments.images) if arguments.images else make_synthetic_dataset(output / "pages")

    with timed("Loading the model"):
        model = load_model(arguments.model)

    with timed("Embedding the images"):
        dataset.compute_embeddings(model, embeddings_field="embedding", batch_size=8)

    # The index uses the stored vectors. From now on, the App can also search by text and by image.
    with timed("Indexing them for search"):
        fob.compute_similarity(dataset, model=arguments.model, embeddings_field="embedding", brain_key="search")

    with timed("Searching"):
        results = {query: dataset.sort_by_similarity(query, k=5, brain_key="search") for query in QUERIES}

    # Late interaction compares each part of a page with the query, and so knows where the page matched.
    with timed("Indexing them for late interaction"):
        index = fob.compute_similarity(
            dataset, backend="late-interaction", model=arguments.model, brain_key="late_interaction", batch_size=8
        )

    with timed("Drawing where pages match"):
        query = next(iter(QUERIES))
        found = dataset.sort_by_similarity(query, k=25, brain_key="late_interaction", dist_field="distance")
        model.heatmaps(found, query, label_field="match", batch_size=8, index=index)

    with timed("Classifying the images"):
        model.classes = list(TYPES)
        model.text_prompt = "An image of:"
        dataset.apply_model(model, label_field="zero_shot", batch_size=8)

    # The App's Embeddings panel shows this map of the dataset.
    with timed("Mapping them in 2D"):
        few = len(dataset.exists("embedding")) < 20
        plot = fob.compute_visualization(
            dataset, embeddings="embedding", method="pca" if few else "umap", brain_key="map", seed=51, verbose=False
        )

    pictures = output / "search.png", output / "map.png"
    with timed("Drawing the results"):
        draw_contact_sheet(results, right_pages(results), pictures[0])
        field = "document_type" if dataset.has_field("document_type") else "zero_shot"
        draw_map(plot.points, dataset.exists("embedding").values(f"{field}.label"), pictures[1])

    print_summary(dataset, results, arguments.model, pictures)


def make_dataset(folder):
    """Makes a dataset of a folder of images."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise SystemExit(f"There is no folder {folder}")

    # The last run's dataset stays until there is a new one to replace it.
    dataset = fo.Dataset.from_images_dir(str(folder))
    if not dataset:
        dataset.delete()
        raise SystemExit(f"There are no images in {folder}")

    delete_dataset()
    dataset.name, dataset.persistent = NAME, True
    return dataset


def make_synthetic_dataset(folder):
    """Draws pages of each type of document, and makes a dataset with the facts of each page."""
    samples = []
    for number, document in zip(PAGES, documents("test", PAGES.start, PAGES.stop), strict=True):
        path = folder / document.type / f"{document.type.replace(' ', '-')}-{number - PAGES.start:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_document(document, f"test {number}").save(path)
        samples.append(
            fo.Sample(
                filepath=str(path.resolve()),
                document_type=fo.Classification(label=document.type),
                caption=caption(document),
                number=number,
            )
        )

    delete_dataset()
    dataset = fo.Dataset(NAME, persistent=True)
    dataset.add_samples(samples)
    return dataset


def delete_dataset():
    """Deletes what the last run left."""
    if fo.dataset_exists(NAME):
        dataset = fo.load_dataset(NAME)
        # An index keeps its vectors in files, which only deleting its run deletes.
        dataset.delete_brain_runs()
        dataset.delete()


def load_model(name):
    if name not in foz.list_zoo_models():
        ours = [known for known in foz.list_zoo_models() if known.endswith(("jina-embeddings-v4", DEMO_MODEL))]
        raise SystemExit(f"FiftyOne's model zoo has no {name!r}. This repository has {' and '.join(ours)}")

    return foz.load_zoo_model(name)


def right_pages(results):
    """Returns the IDs of the found pages that fit their query, as far as the dataset knows the facts of its pages."""
    right = set()
    for query, view in results.items():
        if view.has_field("number"):
            for sample in view:
                (document,) = documents("test", sample.number, sample.number + 1)
                if document.satisfies(QUERIES[query]):
                    right.add((query, sample.id))

    return right


def print_summary(dataset, results, model_name, pictures):
    synthetic = dataset.has_field("caption")
    print(f"\n{len(dataset)} images, by {model_name}")
    if model_name == DEMO_MODEL:
        print("The demo model was trained on synthetic pages like these. On real ones it is of no use.")

    print("\nSeconds")
    for step, duration in seconds.items():
        print(f"  {step:34} {duration:6.1f}")

    for query, view in results.items():
        print(f'\nThe images nearest to "{query}"')
        for rank, sample in enumerate(view, start=1):
            print(f"  {rank}. {sample.filename:24} {sample.caption if synthetic else ''}".rstrip())

    print("\nZero-shot labels")
    counts = dataset.count_values("zero_shot.label")
    for label in sorted(counts, key=counts.get, reverse=True):
        print(f"  {label or '(unreadable)':26} {counts[label]:6}")

    if synthetic:
        evaluation = dataset.evaluate_classifications("zero_shot", gt_field="document_type", eval_key="evaluation")
        print(f"  {evaluation.metrics()['accuracy']:.0%} of them are right; blind guessing gets {1 / len(TYPES):.0%}")

    print(f"\nThe pages found: {pictures[0]}\nThe map of all:  {pictures[1]}")
    print(f'Where pages match "{next(iter(QUERIES))}", the field `match` shows in the FiftyOne App: make app')


def parse_arguments():
    parser = argparse.ArgumentParser(description="Finds and labels images with Jina Embeddings v4 in FiftyOne.")
    parser.add_argument("--images", help="a folder of your own images, in place of the ones that this script draws")
    parser.add_argument("--model", default=DEMO_MODEL, help="the model's name in FiftyOne's model zoo")
    parser.add_argument("--output", default="demo", help="the folder for the pages and pictures that this script draws")
    return parser.parse_args()


seconds = {}


@contextmanager
def timed(step):
    print(step, flush=True)
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


if __name__ == "__main__":
    main()

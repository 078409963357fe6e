"""Finds the pages of your PDFs and images that answer a question, by late interaction, with Jina Embeddings v4.

Usage::

    python examples/index_documents.py FOLDER "who signed the lease?"

Called again, it reads and embeds only what is new in the folder. It needs pypdfium2, and this repository registered
with ``fiftyone.zoo.register_zoo_model_source()``.
"""

import argparse

import fiftyone.brain as fob
import fiftyone.zoo as foz

try:
    from jina_embeddings_v4.documents import PIXELS, load_documents
except ModuleNotFoundError as error:
    if error.name != "jina_embeddings_v4":
        raise
    raise SystemExit(
        "This needs this repository as a package: pip install . in a clone of it, or "
        "pip install 'git+https://github.com/<owner>/<repo>'"
    ) from None

BRAIN_KEY = "pages"


def main():
    arguments = parse_arguments()
    if arguments.model not in foz.list_zoo_models():
        ours = [known for known in foz.list_zoo_models() if "jina-embeddings-v4" in known]
        has = f"This repository has {' and '.join(ours)}" if ours else "Register this repository first"
        raise SystemExit(f"FiftyOne's model zoo has no {arguments.model!r}. {has}")

    if arguments.model.endswith("-demo"):
        print("The demo model was trained on synthetic pages and cannot read real documents: what it finds is chance")
    print("Reading the documents", flush=True)
    try:
        dataset = load_documents(
            arguments.folder,
            arguments.dataset,
            pages_dir=arguments.pages_dir,
            pixels=arguments.pixels,
            progress=True,
        )
    except (ImportError, NotADirectoryError, ValueError) as error:
        raise SystemExit(error) from None

    if not dataset:
        raise SystemExit(f"There are no pages to be read in {arguments.folder}")

    print("Indexing their pages", flush=True)
    index = fob.compute_similarity(
        dataset,
        backend="late-interaction",
        model=arguments.model,
        brain_key=BRAIN_KEY,
        batch_size=arguments.batch_size,
        progress=True,
    )
    # The old pages of documents that changed, which would otherwise still be found.
    gone = set(index.sample_ids) - set(dataset.values("id"))
    if gone:
        index.remove_from_index(sample_ids=list(gone))

    if arguments.query is not None:
        view = dataset.sort_by_similarity(arguments.query, k=arguments.k, brain_key=BRAIN_KEY, dist_field="distance")
        print_pages(view, arguments.query)

    print(f"\n{len(dataset)} pages of {len(dataset.distinct('document'))} documents, by {arguments.model}")
    print(f'To look at them in the FiftyOne App: fiftyone app launch "{dataset.name}"')


def print_pages(view, query):
    documents, pages, distances = view.values(["document", "page", "distance"])
    width = max(len("document"), *map(len, documents))
    print(f'\nThe pages nearest to "{query}"')
    print(f"  rank  {'document':{width}}  page  similarity")
    for rank, (document, page, distance) in enumerate(zip(documents, pages, distances, strict=True), start=1):
        print(f"  {rank:4}  {document:{width}}  {page:4}  {1 - distance:10.3f}")


def parse_arguments():
    parser = argparse.ArgumentParser(description="Finds pages of PDFs and images by late interaction.")
    parser.add_argument("folder", help="the folder of your PDFs and images, which may have subfolders")
    parser.add_argument("query", nargs="?", help="what to look for; without it, the folder is indexed only")
    parser.add_argument("-k", type=int, default=10, help="how many pages to find")
    parser.add_argument("--model", default="jinaai/jina-embeddings-v4", help="the model's name in FiftyOne's model zoo")
    parser.add_argument("--dataset", help="the dataset's name, by default the folder's")
    parser.add_argument("--pages-dir", help="the folder below which rendered pages are kept")
    parser.add_argument("--pixels", type=int, default=PIXELS, help="the area to which pages are rendered")
    parser.add_argument("--batch-size", type=int, default=8, help="how many pages to embed at a time")
    return parser.parse_args()


if __name__ == "__main__":
    main()

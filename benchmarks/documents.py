"""Real PDFs, read, rendered, indexed, searched and marked: what a page costs, what is skipped, and what is found.

    make documents                             # 2,000 pages; downloads 110 MB the first time
    make documents ARGUMENTS="--pages 5000 --longest 1000"

The PDFs are those that a few of Debian's and Python's packages carry. The demo model cannot read them: what it finds is
chance. What the text layer finds is not, nor is what both find.
"""

import argparse
import random
import re
import resource
import statistics
import time
from collections import Counter
from pathlib import Path

import fiftyone as fo
import fiftyone.brain as fob
import pypdfium2 as pdfium
import torch
from jina_embeddings_v4.documents import load_documents
from jina_embeddings_v4.late_interaction.words import MODES

from .memory import Peak
from .pdf_packages import choose_pdfs, fetch_pdfs
from .search import print_table
from .throughput import describe_machine

MODEL, KEY = "jina-embeddings-v4-demo", "pages"

# Words of a query that asks for one page.
PHRASE = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=2000, help="the number of pages")
    parser.add_argument("--longest", type=int, default=260, help="the most pages of a document")
    parser.add_argument("--queries", type=int, default=300, help="how many pages to ask for")
    parser.add_argument("--folder", type=Path, default="build/documents", help="where the PDFs are kept")
    arguments = parser.parse_args()

    print(describe_machine(torch.device("cpu")))
    print("The demo model cannot read these documents: what it finds by meaning is chance")
    packages = fetch_pdfs(arguments.folder / "packages")
    chosen = arguments.folder / "chosen"
    documents, pages = choose_pdfs(packages, chosen, arguments.pages, arguments.longest)
    print(
        f"{documents} documents with {pages} pages, of {sum(map(len, packages.values()))} in {len(packages)} packages"
    )

    name = "benchmark-documents"
    if fo.dataset_exists(name):
        _delete(fo.load_dataset(name))
    dataset = read(chosen, name, arguments.folder / "pages")
    try:
        index = make_index(dataset)
        search(dataset, index, arguments.queries)
        boxes(dataset, index, arguments.queries)
    finally:
        _delete(dataset)


def _delete(dataset):
    for key in dataset.list_brain_runs():
        dataset.delete_brain_run(key)
    dataset.delete()


def read(folder, name, pages_dir):
    """Makes the dataset, and prints what a page costs and what was skipped."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with Peak(torch.device("cpu")) as peak:
        own = peak.now()
        start = time.perf_counter()
        dataset = load_documents(folder, name, pages_dir=pages_dir, progress=False, persistent=False)
        seconds = time.perf_counter() - start
    rendering = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with_text = len(dataset.exists("text"))
    size = sum(Path(path).stat().st_size for path in dataset.values("filepath"))
    print(
        f"\nRead and rendered: {len(dataset)} pages of {len(dataset.distinct('document'))} documents, {with_text} with "
        f"a text layer, {1000 * seconds / len(dataset):.0f} ms and {size / len(dataset) / 1000:.0f} KB a page; at most "
        f"{(peak.bytes - own) / 2**20:.0f} MiB more here, and {'' if rendering > before else 'at most '}"
        f"{rendering / 2**10:.0f} MiB in the process that renders"
    )
    reasons = Counter((one["page"] is not None, one["reason"]) for one in dataset.info["skipped"])
    for (is_page, reason), count in reasons.most_common():
        print(f"Skipped {count} {'pages' if is_page else 'documents'}: {reason}")
    return dataset


def make_index(dataset):
    """Indexes the pages, and prints what a page costs."""
    with Peak(torch.device("cpu")) as peak:
        own = peak.now()
        start = time.perf_counter()
        options = {"backend": "late-interaction", "model": MODEL, "text_field": "text", "progress": False}
        index = fob.compute_similarity(dataset, brain_key=KEY, num_workers=0, **options)
        seconds = time.perf_counter() - start
    folder = Path(fo.config.default_dataset_dir, "late-interaction")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"Indexed by the demo model and by words: {1000 * seconds / len(dataset):.0f} ms and "
        f"{size / len(dataset) / 1000:.1f} KB a page; at most {(peak.bytes - own) / 2**20:.0f} MiB more"
    )
    return index


def search(dataset, index, count):
    """Asks for pages by a phrase that no other page has, and prints how often each way finds them."""
    asked = _phrases(dataset, count)
    rows = [("by", "first", "among five", "ms a query")]
    for mode in MODES:
        ranks, seconds = [], []
        for page_id, phrase in asked:
            start = time.perf_counter()
            found = index.sort_by_similarity(phrase, k=5, mode=mode).values("id")
            seconds.append(time.perf_counter() - start)
            ranks.append(found.index(page_id) if page_id in found else None)
        first, five = (sum(rank is not None and rank < most for rank in ranks) / len(ranks) for most in (1, 5))
        rows.append((mode, f"{first:.1%}", f"{five:.1%}", f"{1000 * statistics.median(seconds):.0f}"))
    print(f"\nOf {len(asked)} pages, each asked for by {PHRASE} words that stand together on no other page, found")
    print_table(rows)


def _phrases(dataset, count):
    """Pairs of a page's id and a phrase of its text layer that no other page has."""
    ids, texts = dataset.exists("text").values(["id", "text"])
    phrases = []
    for text in texts:
        words = re.findall(r"\w+", text.casefold())
        grams = [words[i : i + PHRASE] for i in range(len(words) - PHRASE + 1)]
        phrases.append({" ".join(gram) for gram in grams if all(map(str.isalpha, gram))})
    counts = Counter(phrase for of_page in phrases for phrase in of_page)
    chance, asked = random.Random(51), []
    for page in chance.sample(range(len(ids)), len(ids)):
        own = sorted(phrase for phrase in phrases[page] if counts[phrase] == 1)
        if own and len(asked) < count:
            asked.append((ids[page], chance.choice(own)))
    return asked


def boxes(dataset, index, count):
    """Asks pages where a word of theirs is, and prints how often a box covers it."""
    model, chance = index.get_model(), random.Random(51)
    covered, numbers, areas, seconds = [], [], [], []
    with_text = dataset.exists("text")
    for page_id in chance.sample(with_text.values("id"), len(with_text)):
        page = dataset.select([page_id])
        sample = page.first()
        words = Counter(re.findall(r"\w+", sample.text.casefold()))
        # Of rare words, which say where: "and" is everywhere.
        rare = sorted(word for word, times in words.items() if len(word) > 4 and word.isalpha() and times == 1)
        places = [] if not rare else _find(Path(dataset.info["folder"], sample.document), sample.page, rare, chance)
        if not places or len(covered) == count:
            continue
        word, (x, y) = places
        start = time.perf_counter()
        model.boxes(page, word, "found", index=index, num_workers=0, progress=False)
        seconds.append(time.perf_counter() - start)
        found = [one.bounding_box for one in page.first().found.detections]
        covered.append(
            any(left <= x <= left + width and top <= y <= top + height for left, top, width, height in found)
        )
        numbers.append(len(found))
        areas += [width * height for _, _, width, height in found]
    print(
        f"\nOf {len(covered)} pages, each asked for a word that stands on it once: a box covers the word's middle on "
        f"{sum(covered) / len(covered):.1%}, with {statistics.mean(numbers):.1f} boxes a page, each of "
        f"{statistics.median(areas):.2%} of the page in the median; {1000 * statistics.median(seconds):.0f} ms a page"
    )


def _find(path, number, words, chance):
    """One of the words, and the middle of it on the page as it is drawn, by PDFium's own search and transformation."""
    with pdfium.PdfDocument(path) as pdf:
        page = pdf[number - 1]
        bitmap = page.render(scale=1)
        text, to_bitmap = page.get_textpage(), bitmap.get_posconv(page)
        for word in chance.sample(words, len(words)):
            found = text.search(word, match_whole_word=True).get_next()
            # A hyphenated word has two places.
            if found and text.count_rects(*found) == 1:
                left, bottom, right, top = text.get_rect(0)
                x, y = to_bitmap.to_bitmap((left + right) / 2, (bottom + top) / 2)
                if 0 < x < bitmap.width and 0 < y < bitmap.height:
                    return word, (x / bitmap.width, y / bitmap.height)
    return None


if __name__ == "__main__":
    main()

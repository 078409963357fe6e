"""What a late-interaction search costs, against the number of pages, and what choosing candidates, pooling tokens, int8
and bits cost in quality.

    make search                               # 1,000, 10,000 and 100,000 pages, which need 33 GB of disk
    make search ARGUMENTS="--pages 1000"
    make search ARGUMENTS="--pages --demo-pages 20000"  # the quality alone, of more pages

The costs are of full pages, 780 tokens, and of a query of 12, all random. The quality is of the demo model, on 1,000
test pages unless told otherwise. Other engines that are installed stand beside.
"""

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from jina_embeddings_v4 import DEMO_CHECKPOINT
from jina_embeddings_v4.demo.data import load_pages, page_queries
from jina_embeddings_v4.engine.embeddings import Embeddings
from jina_embeddings_v4.engine.encoder import Encoder
from jina_embeddings_v4.engine.pooling import unit
from jina_embeddings_v4.late_interaction.query import Query
from jina_embeddings_v4.late_interaction.stores.local import LocalStore
from jina_embeddings_v4.late_interaction.token_pooling import pool_tokens

from .engines import engines
from .quality import ndcg
from .throughput import describe_machine, memory_in_use

TOKENS, QUERY_TOKENS, SINGLE, MULTI = 780, 12, 2048, 128
CANDIDATES = (100, 1000)
K = 25
KINDS = ("single", "multi", "bits")
CHOSEN = (10, 20, 50, 100, 200, 1000)
POOLED = (("float16", 2), ("float16", 3), ("float16", 4), ("float16", 6), ("binary", 2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, nargs="*", default=[1000, 10_000, 100_000], help="numbers of pages")
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="where to keep the index")
    parser.add_argument("--rounds", type=int, default=5, help="how often to measure each figure")
    parser.add_argument(
        "--demo-pages", type=int, default=1000, help="of how many pages to measure the quality, 0: none"
    )
    arguments = parser.parse_args()
    print(describe_machine(torch.device("cpu")))

    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        for pages in arguments.pages:
            need, free = pages * TOKENS * MULTI * 3.3, shutil.disk_usage(folder).free
            if need > free:
                print(f"\n{pages} pages need {need / 1e9:.0f} GB of disk, and there are {free / 1e9:.0f} GB")
            else:
                cost(Path(folder), pages, arguments.rounds)
        if arguments.demo_pages:
            quality(Path(folder), arguments.demo_pages)


class Pages:
    """Random pages, a few of them repeated: the values do not change the time."""

    def __init__(self, count=128):
        random = np.random.default_rng(51)
        self.single = unit(random.standard_normal((count, SINGLE), dtype=np.float32))
        self.multi = [unit(random.standard_normal((TOKENS, MULTI), dtype=np.float32)) for _ in range(count)]

    def fill(self, store, pages):
        for start in range(0, pages, len(self.single)):
            ids = [f"{i:024x}" for i in range(start, min(start + len(self.single), pages))]
            store.add(ids, ids, Embeddings(self.single[: len(ids)], self.multi[: len(ids)]))


def cost(folder, pages, rounds):
    """Prints how long a search takes, and how much memory and disk."""
    random_pages, query = Pages(), random_query()
    # Bits beside float16, and bits alone.
    beside = LocalStore(folder / f"{pages}", gate="binary")
    stores = {"float16": beside, "int8": LocalStore(folder / f"{pages}-int8", "int8")}
    stores["binary"] = LocalStore(folder / f"{pages}-binary", "binary", "binary")
    print(f"\n{pages:,} pages")
    for name, store in stores.items():
        start = time.perf_counter()
        random_pages.fill(store, pages)
        written = time.perf_counter() - start
        sizes = {kind: sum(path.stat().st_size for path in store.folder.glob(f"*.{kind}")) for kind in KINDS}
        said = ", ".join(f"{size / pages / 1000:.1f} KB .{kind}" for kind, size in sizes.items() if size)
        print(f"{name}: a page has {said} on disk; {pages / written:.0f} pages a second were written")

    by_single = LocalStore(beside.folder)
    alone = Query(None, query.single)
    ways = {"single vectors alone": lambda: by_single.search(alone, K)}
    for n in CANDIDATES:
        if n < pages:
            ways[f"late interaction with {n:,}"] = lambda n=n: by_single.search(query, K, n)
            ways[f"the same, chosen by bits, {n:,}"] = lambda n=n: beside.search(query, K, n)
            ways[f"binary: float query on {n:,}, chosen by bits"] = lambda n=n: stores["binary"].search(query, K, n)
    ways["late interaction with all"] = lambda: by_single.search(query, K)
    ways["the same, int8"] = lambda: stores["int8"].search(query, K)
    ways["binary: float query on all"] = lambda: stores["binary"].search(query, K)
    ways["binary: signs against signs"] = lambda: stores["binary"].search(query, 1, 1)
    if pages <= 1000:
        ways |= in_memory(random_pages, query, pages)

    rows = [("", "ms", "memory, MiB"), *measure(ways, rounds)]
    for store in stores.values():
        store.drop()
    if pages <= 1000:
        multi = [random_pages.multi[i % 128] for i in range(pages)]
        for name, run in engines(folder, multi, unit(query.multi), K):
            rows += [(name, "", "")] if run is None else measure({name: run}, min(rounds, 3))
    print_table(rows)


def in_memory(random_pages, query, pages):
    """All pages in memory, in float32: one product, and the maxima."""
    tokens = torch.from_numpy(np.concatenate([random_pages.multi[i % 128] for i in range(pages)]))
    asked = torch.from_numpy(query.multi)
    return {
        "torch, all in memory in float32": lambda: (tokens @ asked.T).view(pages, TOKENS, -1).amax(dim=1).sum(dim=1)
    }


def quality(folder, count):
    """Prints what candidates, token pooling and fewer bits lose on the demo model's pages, by at most 1,000 queries."""
    encoder = Encoder.from_checkpoint(DEMO_CHECKPOINT, device="cpu", precision="float32")
    # Bits beside float16, and bits alone.
    stores = {
        "float16": LocalStore(folder / "float16", gate="binary"),
        "int8": LocalStore(folder / "int8", "int8"),
        "binary": LocalStore(folder / "binary", "binary", "binary"),
    }
    pooled = {f"{name}, pooled by {n}": (name, n) for name, n in POOLED} if count <= 1000 else {}
    stores |= {name: LocalStore(folder / name, dtype, "binary") for name, (dtype, _) in pooled.items()}
    documents, first = [], []
    numbers = [range(start, min(start + 100, count)) for start in range(0, count, 100)]
    for part, pages in zip(numbers, load_pages("test", encoder.processor.image_settings, numbers), strict=True):
        embeddings, ids = encoder.encode_images([page.image for page in pages]), [f"{i:024x}" for i in part]
        for name, store in stores.items():
            factor = pooled[name][1] if name in pooled else 1
            multi = [pool_tokens(vectors, factor) for vectors in embeddings.multi]
            store.add(ids, ids, Embeddings(embeddings.single, multi))
        documents += [page.document for page in pages]
        first += pages[: max(0, 1000 - len(first))]
    texts, facts = page_queries(first, "test")
    relevant = np.array([[document.satisfies(asked) for document in documents] for asked in facts])
    embedded = encoder.encode_texts(texts)
    queries = [Query.from_embeddings(Embeddings(embedded.single[[i]], [row])) for i, row in enumerate(embedded.multi)]

    def rank(store, candidates=None, only_single=False):
        scores = np.full(relevant.shape, -np.inf, np.float32)
        for row, query in zip(scores, queries, strict=True):
            asked = Query(None, query.single) if only_single else query
            found, _, values = store.search(asked, 10, candidates)
            row[[int(page, 16) for page in found]] = values
        return scores

    print(f"\nThe demo model, {len(queries)} queries over {count:,} test pages")
    exact = rank(stores["float16"])
    top = np.isfinite(exact)
    rows = [("", "nDCG@5", "of the best 10 by all, found", "bytes a page")]

    def show(name, scores, store, kind="multi"):
        size = sum(path.stat().st_size for path in store.folder.glob(f"*.{kind}")) / count
        rows.append(
            (
                name,
                f"{ndcg(scores, relevant):.3f}",
                f"{(np.isfinite(scores) & top).sum() / top.sum():.3f}",
                f"{size:.0f}",
            )
        )

    show("single vectors alone", rank(stores["float16"], only_single=True), stores["float16"], "single")
    for dtype in ("float16", "binary"):
        for gate in ("single", "binary"):
            store = LocalStore(stores[dtype].folder, dtype, gate)
            for candidates in CHOSEN:
                if candidates < count:
                    show(f"{dtype}, best {candidates:,}, gate={gate!r}", rank(store, candidates), store)
    for name, store in stores.items():
        show(f"{name}, all", exact if name == "float16" else rank(store), store)
    print_table(rows)


def measure(ways, rounds):
    """Yields rows of a table: the median time of each function after a first call, and the memory that it takes.

    They run in turn, so that what else the machine does meanwhile weighs on all of them. Files that are mapped into
    memory do not count: the system takes them back whenever it needs the room.
    """
    memory = {name: memory_of(run) for name, run in ways.items()}
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    for name in ways:
        yield name, f"{1000 * statistics.median(times[name]):.1f}", f"{memory[name] / 2**20:.0f}"


def memory_of(run):
    """Returns the memory that a function takes, in bytes."""
    before, during, over = memory_in_use("RssAnon"), [0], threading.Event()

    def watch():
        while not over.wait(0.002):
            during.append(memory_in_use("RssAnon"))

    watching = threading.Thread(target=watch)
    watching.start()
    run()
    over.set()
    watching.join()
    return max(0, max(during) - before)


def print_table(rows):
    """Prints the rows as a Markdown table, of which the first is the head."""
    head, *rows = rows
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")


def random_query():
    random = np.random.default_rng(7)
    multi = unit(random.standard_normal((QUERY_TOKENS, MULTI), dtype=np.float32))
    return Query.from_embeddings(Embeddings(unit(random.standard_normal((1, SINGLE), dtype=np.float32)), [multi]))


if __name__ == "__main__":
    main()

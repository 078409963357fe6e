"""What a late-interaction search costs, against the number of pages, and what choosing candidates, pooling tokens and
int8 cost in quality.

    make search                               # 1,000, 10,000 and 100,000 pages, which need 21 GB of disk
    make search ARGUMENTS="--pages 1000"

The costs are of full pages, 780 tokens, and of a query of 12, all random. The quality is of the demo model, on 1,000
test pages. Where lancedb is installed, its own ways stand beside.
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
from jina_embeddings_v4.engine.embeddings import Embeddings
from jina_embeddings_v4.engine.encoder import Encoder
from jina_embeddings_v4.engine.pooling import unit
from jina_embeddings_v4.late_interaction.query import Query
from jina_embeddings_v4.late_interaction.stores.local import LocalStore
from jina_embeddings_v4.late_interaction.token_pooling import pool_tokens

from .quality import Retrieval, ndcg
from .throughput import describe_machine, memory_in_use

TOKENS, QUERY_TOKENS, SINGLE, MULTI = 780, 12, 2048, 128
CANDIDATES = (100, 1000)
K = 25


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, nargs="*", default=[1000, 10_000, 100_000], help="numbers of pages")
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="where to keep the index")
    parser.add_argument("--rounds", type=int, default=5, help="how often to measure each figure")
    arguments = parser.parse_args()
    print(describe_machine(torch.device("cpu")))

    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        for pages in arguments.pages:
            need, free = pages * TOKENS * MULTI * 2 * 1.1, shutil.disk_usage(folder).free
            if need > free:
                print(f"\n{pages} pages need {need / 1e9:.0f} GB of disk, and there are {free / 1e9:.0f} GB")
            else:
                cost(Path(folder), pages, arguments.rounds)
        quality(Path(folder))


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
    store = LocalStore(folder / str(pages))
    start = time.perf_counter()
    random_pages.fill(store, pages)
    written = time.perf_counter() - start
    disk = sum(path.stat().st_size for path in store.folder.iterdir())
    store.search(query, K, candidates=1)  # reads the table of pages
    print(f"\n{pages:,} pages, {disk / pages / 1000:.0f} KB each on disk, written at {pages / written:.0f} a second")

    rows = [("", "ms", "memory, MiB")]
    ways = {"single vectors alone": (Query(None, query.single), None)}
    ways |= {f"late interaction with {n:,}": (query, n) for n in CANDIDATES if n < pages}
    ways["late interaction with all"] = (query, None)
    for name, (asked, candidates) in ways.items():
        seconds, memory = measure(lambda asked=asked, n=candidates: store.search(asked, K, n), rounds)
        rows.append((name, f"{1000 * seconds:.0f}", f"{memory / 2**20:.0f}"))
    if pages <= 1000:
        rows += in_memory(random_pages, query, pages, rounds)
        rows += by_lancedb(folder, random_pages, query, pages, rounds)
    print_table(rows)
    store.drop()


def in_memory(random_pages, query, pages, rounds):
    """All pages in memory, in float32: one product, and the maxima."""
    tokens = torch.from_numpy(np.concatenate([random_pages.multi[i % 128] for i in range(pages)]))
    asked = torch.from_numpy(query.multi)
    seconds, memory = measure(lambda: (tokens @ asked.T).view(pages, TOKENS, -1).amax(dim=1).sum(dim=1), rounds)
    yield "torch, all in memory in float32", f"{1000 * seconds:.0f}", f"{(memory + tokens.nbytes) / 2**20:.0f}"


def by_lancedb(folder, random_pages, query, pages, rounds):
    """lancedb's own search by multi-vectors, and the time to read all pages by their rows."""
    try:
        import lancedb
        import pyarrow as pa
    except ImportError:
        return

    table = None
    for start in range(0, pages, 100):
        chosen = [random_pages.multi[i % 128].astype(np.float16) for i in range(start, min(start + 100, pages))]
        rows = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(chosen).ravel()), MULTI)
        offsets = pa.array(np.arange(0, len(rows) + 1, TOKENS), pa.int32())
        columns = pa.table({"id": range(start, start + len(chosen)), "multi": pa.ListArray.from_arrays(offsets, rows)})
        if table is None:
            table = lancedb.connect(folder / "lancedb").create_table("pages", columns)
        else:
            table.add(columns)

    asked = unit(query.multi)
    ways = {
        "lancedb, its search by multi-vectors": lambda: (
            table.search(asked, vector_column_name="multi").distance_type("cosine").limit(K).to_arrow()
        ),
        "lancedb, reading all pages by their rows": lambda: table.take_offsets(list(range(pages))).to_arrow(),
    }
    for name, run in ways.items():
        seconds, memory = measure(run, min(rounds, 3))
        yield name, f"{1000 * seconds:.0f}", f"{memory / 2**20:.0f}"


def quality(folder):
    """Prints what candidates, token pooling and int8 lose on the demo model's pages."""
    encoder = Encoder.from_checkpoint(DEMO_CHECKPOINT, device="cpu", precision="float32")
    retrieval = Retrieval(encoder)
    pages = encoder.encode_images([page.image for page in retrieval.pages])
    texts = encoder.encode_texts(retrieval.queries)
    queries = [Query.from_embeddings(Embeddings(texts.single[[i]], [multi])) for i, multi in enumerate(texts.multi)]
    ids = [f"{i:024x}" for i in range(len(pages))]

    def rank(store, candidates=None, only_single=False):
        scores = np.full((len(queries), len(ids)), -np.inf)
        for row, query in zip(scores, queries, strict=True):
            asked = Query(None, query.single) if only_single else query
            found, _, values = store.search(asked, 10, candidates)
            row[[int(page, 16) for page in found]] = values
        return scores

    def fill(name, dtype="float16", pool_factor=1):
        store = LocalStore(folder / name, dtype)
        store.add(ids, ids, Embeddings(pages.single, [pool_tokens(multi, pool_factor) for multi in pages.multi]))
        return store, store.folder.joinpath("000000.multi").stat().st_size / len(ids)

    print(f"\nThe demo model, {len(queries)} queries over as many test pages")
    store, size = fill("all")
    exact = rank(store)
    top = np.isfinite(exact)
    rows = [("", "nDCG@5", "recall@10 of exact", "bytes a page")]
    single = rank(store, only_single=True)
    rows.append(("single vectors alone", *figures(single, retrieval.relevant, top), f"{2 * pages.single.shape[1]}"))
    for candidates in (10, 20, 50, 100, 200):
        scores = rank(store, candidates)
        rows.append((f"late interaction with {candidates}", *figures(scores, retrieval.relevant, top), f"{size:.0f}"))
    rows.append(("late interaction with all", *figures(exact, retrieval.relevant, top), f"{size:.0f}"))
    store, size = fill("int8", "int8")
    rows.append(("the same, int8", *figures(rank(store), retrieval.relevant, top), f"{size:.0f}"))
    for factor in (2, 3, 4, 6):
        store, size = fill(f"pooled-{factor}", pool_factor=factor)
        rows.append((f"the same, pooled by {factor}", *figures(rank(store), retrieval.relevant, top), f"{size:.0f}"))
    print_table(rows)


def figures(scores, relevant, top):
    return f"{ndcg(scores, relevant):.3f}", f"{(np.isfinite(scores) & top).sum() / top.sum():.3f}"


def measure(run, rounds):
    """Returns the median time of a function after a first call, in seconds, and the memory that it takes, in bytes.

    Files that are mapped into memory do not count: the system takes them back whenever it needs the room.
    """
    before, during, over = memory_in_use("RssAnon"), [0], threading.Event()

    def watch():
        while not over.wait(0.002):
            during.append(memory_in_use("RssAnon"))

    watching = threading.Thread(target=watch)
    watching.start()
    run()
    over.set()
    watching.join()

    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times), max(0, max(during) - before)


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

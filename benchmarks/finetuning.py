"""Shows that a fine-tuned adapter finds pages that the demo model was not trained on: calendars with one day marked.

python -m jina_embeddings_v4.cli.private_fiftyone .demo python -m benchmarks.finetuning
"""

import random
import tempfile
import time
from pathlib import Path

import fiftyone as fo
import numpy as np
from jina_embeddings_v4 import DEMO_CHECKPOINT
from jina_embeddings_v4.demo.pages.canvas import INK, PALE, RGB, Canvas, jitter
from jina_embeddings_v4.engine.encoder import Encoder
from jina_embeddings_v4.finetuning.finetune import finetune

from .quality import late_scores, ndcg

COLOURS = ("red", "blue", "green", "orange", "purple", "black")
WEEKS = ("first", "second", "third", "fourth")
KINDS = [(colour, week) for colour in COLOURS for week in WEEKS]


def query(colour, week):
    """Returns the text that should find a calendar."""
    return f"a calendar with a {colour} day in the {week} week"


def draw_calendar(colour, week, seed):
    """Draws a month of four weeks, in which one day has a colour.

    Args:
        colour: one of :data:`COLOURS`
        week: one of :data:`WEEKS`
        seed: what decides the rest

    Returns:
        an RGB PIL image
    """
    generator = random.Random(f"{colour} {week} {seed}")
    canvas = Canvas((632, 448), (252, 252, 250), generator)
    canvas.text(30, 24, generator.choice(("January", "April", "July", "October")), 44, "sans-bold")
    marked = generator.randrange(7)
    for day in range(28):
        x, y = 30 + day % 7 * 82, 108 + day // 7 * 80
        is_marked = day // 7 == WEEKS.index(week) and day % 7 == marked
        fill = jitter(generator, RGB[colour], 12) if is_marked else None
        canvas.box(x, y, x + 76, y + 74, fill=fill, outline=PALE, width=3)
        canvas.text(x + 8, y + 6, str(day + 1), 18, fill=INK)

    return canvas.image


def make_dataset(folder, count, seed):
    """Writes calendars of each kind, and makes a FiftyOne dataset of them with the texts that should find them."""
    samples = []
    for colour, week in KINDS:
        for i in range(count):
            path = Path(folder) / f"{seed}-{colour}-{week}-{i}.png"
            draw_calendar(colour, week, f"{seed} {i}").save(path)
            samples.append(fo.Sample(filepath=str(path), question=query(colour, week)))

    dataset = fo.Dataset()
    dataset.add_samples(samples)
    return dataset


def score(encoder, dataset):
    """Returns the nDCG@5 of single vectors, and of late interaction."""
    pages = encoder.encode_images(dataset.values("filepath"))
    asked = [query(*kind) for kind in KINDS]
    queries = encoder.encode_texts(asked)
    relevant = np.array([[text == own for own in dataset.values("question")] for text in asked])
    return ndcg(queries.single @ pages.single.T, relevant), ndcg(late_scores(queries.multi, pages.multi), relevant)


def main():
    with tempfile.TemporaryDirectory() as folder:
        known, unknown = make_dataset(folder, 8, "train"), make_dataset(folder, 3, "test")
        start = time.perf_counter()
        adapter = f"{folder}/adapter"
        finetune(known, "question", adapter, checkpoint=DEMO_CHECKPOINT, steps=150, learning_rate=1e-3)
        print(f"\nFine-tuned on {len(known)} calendars in {time.perf_counter() - start:.0f} s")
        print(f"nDCG@5 of {len(KINDS)} queries over {len(unknown)} other calendars: single, multi")
        for name, own in (("the demo model", None), ("with the adapter", adapter)):
            single, multi = score(Encoder.from_checkpoint(DEMO_CHECKPOINT, device="cpu", adapter=own), unknown)
            print(f"  {name:18} {single:.3f} {multi:.3f}")


if __name__ == "__main__":
    main()

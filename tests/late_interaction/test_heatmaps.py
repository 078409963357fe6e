"""Heatmaps lie where the demo model's pages show what a query names, through FiftyOne."""

import re

import fiftyone as fo
import fiftyone.brain as fob
import numpy as np
import pytest
from fiftyone import ViewField as F
from jina_embeddings_v4 import DEMO_CHECKPOINT
from jina_embeddings_v4.demo.pages.documents import HEADLINES, documents
from jina_embeddings_v4.demo.pages.phrases import TYPE_NAMES, phrase
from jina_embeddings_v4.demo.pages.rendering import LANDSCAPE, STRIP, draw_with_boxes
from jina_embeddings_v4.engine.images import grid_of_file, resize_image
from jina_embeddings_v4.engine.processing import Processor
from jina_embeddings_v4.late_interaction.heat import excess
from jina_embeddings_v4.late_interaction.heatmaps import RANGE, interpolate, write_heatmaps
from PIL import Image

from ..conftest import DEMO_MODEL

# Of the test split. Some have no headline.
PAGES = range(30_000, 30_140)

SETTINGS = Processor(DEMO_CHECKPOINT).image_settings

# EXIF's orientations, and how to turn a picture for viewers to turn it back.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A FiftyOne dataset of test pages, with their headlines and marks, as texts that ask for them, and their boxes."""
    folder = tmp_path_factory.mktemp("pages")
    dataset, samples = fo.Dataset(), []
    for number, document in zip(PAGES, documents("test", PAGES.start, PAGES.stop), strict=True):
        image, boxes = draw_with_boxes(document, number)
        path = folder / f"{number}.png"
        image.save(path)
        asked = {("mark", *fact[1:3], None) if fact[0] == "mark" else fact: box for fact, box in boxes.items()}
        samples.append(
            fo.Sample(
                filepath=str(path),
                kind=document.type,
                size=list(image.size),
                headline=document.headline,
                boxes={phrase([fact]): list(box) for fact, box in asked.items()},
            )
        )

    dataset.add_samples(samples)
    yield dataset
    dataset.delete()


@pytest.fixture
def broken(dataset, tmp_path):
    """The dataset of image files, the fourth of which is none."""
    path = tmp_path / "broken.png"
    path.write_text("not an image")
    sample = dataset.skip(3).first()
    sample.filepath = str(path)
    sample.save()
    return dataset


def peak_is_in_the_box(sample, query, field="heatmap", asked=None):
    """Whether the hottest cell touches the box: its centre is in the box, or off it by half a cell at most."""
    heat = sample[field].map
    assert asked is None or sample[field].query == asked
    (rows, columns), (width, height) = grid_of_file(sample.filepath, SETTINGS), sample.size
    row, column = np.array(np.unravel_index(heat.argmax(), heat.shape)) // (heat.shape[0] // rows)
    left, top, right, bottom = sample.boxes[query]
    across = left <= (column + 1) * width / columns and column * width / columns <= right
    return across and top <= (row + 1) * height / rows and row * height / rows <= bottom


def test_headlines_are_found_where_they_are_written(load_demo, pages):
    """Of cells taken by chance, 0.12 touch the headline. Measured on 626 other pages: 0.89."""
    model, found = load_demo(), []
    for headline in HEADLINES:
        view, query = pages.match(F("headline") == headline), phrase([("headline", headline)])
        model.heatmaps(view, query, num_workers=0)
        found += [peak_is_in_the_box(sample, query) for sample in view]
    assert len(found) > 90 and np.mean(found) >= 0.8


def test_the_word_alone_is_found_there_too(load_demo, pages):
    model, found = load_demo(), []
    for headline in HEADLINES[:8]:
        view = pages.match(F("headline") == headline)
        model.heatmaps(view, headline, num_workers=0)
        found += [peak_is_in_the_box(sample, phrase([("headline", headline)])) for sample in view]
    assert len(found) > 30 and np.mean(found) >= 0.8


@pytest.mark.parametrize("kind, size", [("slide", LANDSCAPE), ("receipt", STRIP)])
def test_marks_are_found_on_wide_and_tall_pages(load_demo, pages, kind, size):
    """Of cells taken by chance, 0.08 touch the mark. Marks lie in all four corners."""
    view = pages.match(F("kind") == kind)
    assert view.values("size") == [list(size)] * len(view)
    queries = {query for boxes in view.values("boxes") for query in boxes if query.startswith("a page with")}
    model, found = load_demo(), []
    for query in queries:
        having = view.select([sample.id for sample in view if query in sample.boxes])
        model.heatmaps(having, query, num_workers=0)
        found += [peak_is_in_the_box(sample, query) for sample in having]
    assert len(found) > 8 and np.mean(found) >= 0.8


def test_pages_without_the_query_stay_dark(load_demo, pages):
    view = pages[:100]
    load_demo().heatmaps(view, "Falcon")
    peaks = np.array([label.map.max() for label in view.values("heatmap")])
    there = np.array([headline == "Falcon" for headline in view.values("headline")])
    assert 2 < there.sum() < 20
    assert np.median(peaks[there]) > 0.5 * RANGE[1]
    assert np.mean(peaks[~there] < 0.25 * RANGE[1]) > 0.8


@pytest.mark.parametrize(
    "size, max_pixels, grid",
    [
        ((280, 140), None, (5, 10)),
        ((140, 280), None, (10, 5)),
        ((84, 56), None, (2, 3)),
        ((1120, 280), None, (4, 16)),
        ((1120, 280), 16 * 784, (2, 8)),
        ((1120, 280), 400 * 784, (10, 40)),
    ],
)
def test_a_map_is_the_grid_of_visual_tokens(load_demo, tmp_path, size, max_pixels, grid):
    """The demo model sees up to 72 tokens of 28 x 28 pixels."""
    noise = np.random.default_rng(51).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    dataset = fo.Dataset()
    dataset.add_sample(fo.Sample(filepath=str(tmp_path / "noise.png")))
    model = load_demo(max_pixels=max_pixels)
    assert write_heatmaps(model, dataset, "a red stamp", "stamp", num_workers=0) == ["stamp"]
    (label,) = dataset.values("stamp")
    dataset.delete()
    assert isinstance(label, fo.Heatmap) and label.query == "a red stamp" and label.range == [0, 0.4]
    times = label.map.shape[0] // grid[0]
    assert label.map.shape == (grid[0] * times, grid[1] * times) and 128 <= max(label.map.shape) < 128 + max(grid)
    assert label.map.dtype == np.float32 and label.map.flags.c_contiguous
    assert label.map.min() == 0 < label.map.max()


def test_a_map_interpolates_between_the_centres_of_its_cells():
    values = np.random.default_rng(51).random((5, 7), dtype=np.float32)
    found = interpolate(values)
    times = found.shape[1] // 7
    assert found.shape == (5 * times, 7 * times) and times == 19
    np.testing.assert_allclose(found[times // 2 :: times, times // 2 :: times], values, atol=1e-6)
    # A third of the way from one centre to the next below it, and on their line.
    row, column = times // 2 + times, times // 2 + 2 * times
    share = 6 / times
    expected = (1 - share) * values[1, 2] + share * values[2, 2]
    np.testing.assert_allclose(found[row + 6, column], expected, atol=1e-6)


def test_a_cell_is_the_cosine_over_what_is_ordinary_on_the_page(load_demo, dataset):
    """By the sums as the module states them, over tokens that are found by their ids."""
    model = load_demo()
    model.heatmaps(dataset[:3], "a red stamp", num_workers=0)
    processor, settings = model.encoder.processor, model.encoder.processor.image_settings
    query = model.encoder.encode_texts(["a red stamp"]).multi[0][len(processor.ids("Query:")) :]
    for sample in dataset[:3]:
        image = resize_image(sample.filepath, settings)
        is_visual = (processor.image_tokens(image).ids == processor.ids("<|image_pad|>")).numpy()
        page = model.encoder.encode_images([image]).multi[0][is_visual]
        heat = np.zeros(len(page))
        for token in query:
            cosines = [float(np.dot(token, cell)) for cell in page]
            heat = np.maximum(heat, [cosine - np.mean(cosines) - np.std(cosines) for cosine in cosines])
        columns = image.pixels.shape[2] // settings.token_size
        expected = interpolate(heat.reshape(-1, columns).astype(np.float32))
        np.testing.assert_allclose(sample.heatmap.map, expected, atol=2e-6)


@pytest.mark.parametrize("kind", ["slide", "receipt"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_file_gets_the_map_of_the_page_as_it_is_seen(load_demo, pages, tmp_path, kind, orientation):
    """By a wide and a tall page."""
    sample = next(sample for sample in pages.match(F("kind") == kind) if sample.boxes)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = tmp_path / "turned.png"
    Image.open(sample.filepath).transpose(TURNS[orientation]).save(turned, exif=exif)
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=path) for path in (sample.filepath, str(turned))])
    load_demo().heatmaps(dataset, next(iter(sample.boxes)), num_workers=0)
    expected, found = (label.map for label in dataset.values("heatmap"))
    dataset.delete()
    assert (expected.shape[0] < expected.shape[1]) == (kind == "slide")
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_each_token_can_have_a_map_of_its_own(load_demo, dataset):
    model, query = load_demo(), 'a page headed "Falcon"'
    model.heatmaps(dataset, query)
    fields = write_heatmaps(model, dataset, query, per_token=True, batch_size=5)
    assert fields[:3] == ["heatmap_1_a", "heatmap_2_page", "heatmap_3_headed"]
    # What is in no field's name, as quotation marks, leaves its number.
    assert all(re.fullmatch(rf"heatmap_{i}(_\w+)?", field) for i, field in enumerate(fields, start=1))
    for sample in dataset:
        assert "".join(sample[field].query for field in fields) == query.replace(" ", "")
        maps = [sample[field].map for field in fields]
        assert len({values.tobytes() for values in maps}) == len(maps)
        # The corners of a map are its cells. What is between cells may be less than the maximum of what is there.
        corners = np.ix_([0, -1], [0, -1])
        np.testing.assert_allclose(np.max(maps, axis=0)[corners], sample.heatmap.map[corners], atol=2e-6)
        assert (np.max(maps, axis=0) <= sample.heatmap.map + 2e-6).all()


def test_a_token_is_met_where_the_query_means_it(load_demo, pages):
    """Of a headline and a mark, each has its place."""
    model, found = load_demo(), []
    view = pages.match(F("headline") == "Falcon")
    for sample in view:
        page = pages.select([sample.id])
        for query in sample.boxes:
            last = write_heatmaps(model, page, query, "token", per_token=True, num_workers=0)[-1]
            found.append(peak_is_in_the_box(page.first(), query, last))
    assert len(found) > 5 and np.mean(found) >= 0.8


def test_an_unreadable_image_costs_itself_alone(load_demo, broken, caplog):
    model = load_demo()
    model.heatmaps(broken[:3], "a red stamp", "expected", num_workers=0)
    model.heatmaps(broken[4:6], "a red stamp", "expected", num_workers=0)
    model.heatmaps(broken[:6], "a red stamp", batch_size=4, num_workers=2)
    expected, found = broken[:6].values(["expected", "heatmap"])
    assert [label is None for label in found] == [False] * 3 + [True] + [False] * 2
    assert broken[6:].values("heatmap") == [None] * 6
    assert caplog.text.count("Skipping an image") == 1
    for one, other in zip(found, expected, strict=True):
        if one is not None:
            np.testing.assert_allclose(one.map, other.map, atol=2e-6)

    with pytest.raises(ValueError, match="broken.png"):
        model.heatmaps(broken, "a red stamp", skip_failures=False)


def test_a_map_of_another_query_is_not_left_anywhere(load_demo, dataset):
    model = load_demo()
    model.heatmaps(dataset, "a red stamp")
    first = dataset.values("heatmap")
    model.heatmaps(dataset[4:], "Falcon")
    model.heatmaps(dataset[2:4], "Falcon")
    second = dataset.values("heatmap")
    assert [label and label.query for label in second] == [None] * 2 + ["Falcon"] * 10
    assert not any(np.array_equal(one.map, other.map) for one, other in zip(first[2:], second[2:], strict=True))


def test_the_field_gets_a_colour_but_keeps_one_that_it_has(load_demo, dataset):
    dataset.app_config.color_scheme = fo.ColorScheme(fields=[{"path": "own", "fieldColor": "#00ff00"}], opacity=0.4)
    dataset.save()
    for field in ("own", "heatmap", "heatmap"):
        load_demo().heatmaps(dataset[:1], "a red stamp", field, num_workers=0)
    dataset.reload()
    scheme = dataset.app_config.color_scheme
    assert scheme.opacity == 0.4 and [(field["path"], field["fieldColor"]) for field in scheme.fields] == [
        ("own", "#00ff00"),
        ("heatmap", "#ff0090"),
    ]


def test_what_is_no_image_or_no_query_is_refused(load_demo, dataset):
    model = load_demo()
    with pytest.raises(ValueError, match="empty"):
        model.heatmaps(dataset, " ")
    with pytest.raises(TypeError, match="Expected a text"):
        model.heatmaps(dataset, ["a red stamp"])

    first = dataset.first()
    first["parts"] = fo.Detections(detections=[fo.Detection(label="part", bounding_box=[0, 0, 0.5, 0.5])])
    first.save()
    with pytest.raises(ValueError, match="whole images"):
        model.heatmaps(dataset.to_patches("parts"), "a red stamp")

    videos = fo.Dataset()
    videos.add_sample(fo.Sample(filepath="/nowhere/video.mp4"))
    with pytest.raises(ValueError, match="media type image; found video"):
        model.heatmaps(videos, "a red stamp")
    videos.delete()
    assert not dataset.has_field("heatmap")


def test_a_page_that_is_alike_all_over_has_no_heat():
    assert not excess(np.full((3, 1), 0.5, np.float32)).any()
    assert excess(np.full((3, 50), 0.3, np.float32)).max() < 1e-6


def test_a_field_of_another_type_is_refused_before_the_work(load_demo, dataset, monkeypatch):
    model = load_demo()
    dataset.add_sample_field("heatmap", fo.StringField)
    monkeypatch.setattr(model, "encode_prompts", None)
    with pytest.raises(ValueError, match="'heatmap' holds StringField"):
        write_heatmaps(model, dataset, "a stamp", num_workers=0)


@pytest.mark.parametrize("dtype, tolerance", [("float16", 2e-3), ("int8", 3e-2)])
def test_an_index_s_vectors_serve_in_place_of_new_ones(load_demo, pages, monkeypatch, dtype, tolerance):
    # So few pages that its tokens are not weighed.
    view, model, query = pages.limit(5), load_demo(), "a red stamp"
    options = {"backend": "late-interaction", "model": DEMO_MODEL, "brain_key": "for_heatmaps", "dtype": dtype}
    index = fob.compute_similarity(view.limit(4), **options)
    try:
        model.heatmaps(view, query, label_field="embedded")
        counted, embedded = type(model).encode_images, []

        def encode_images(self, images, *arguments, **options):
            embedded.extend(images)
            return counted(self, images, *arguments, **options)

        monkeypatch.setattr(type(model), "encode_images", encode_images)
        model.heatmaps(view, query, label_field="stored", index=index)
        # The one that the index lacks.
        assert len(embedded) == 1
        for first, second in zip(*view.values(["embedded.map", "stored.map"]), strict=True):
            assert first.shape == second.shape and np.abs(first - second).max() < tolerance
        assert set(view.values("stored.query")) == {query}

        # Seen at another size, the page's tokens are others.
        model.max_pixels = 100_000
        embedded.clear()
        model.heatmaps(view, query, label_field="small", index=index)
        assert len(embedded) == 5
    finally:
        pages.delete_brain_run("for_heatmaps")


@pytest.fixture(scope="module")
def index(pages):
    options = {"backend": "late-interaction", "model": DEMO_MODEL, "num_workers": 0}
    yield fob.compute_similarity(pages, brain_key="weighing", **options)
    pages.delete_brain_run("weighing")


def test_the_progress_is_told_and_the_query_weighed_once(load_demo, pages, index, broken, monkeypatch):
    model, query = load_demo(), "an invoice with a blue stamp"
    view = pages.limit(7)
    model.heatmaps(view, query, label_field="eager", index=index)
    asked, nearest = [], type(index).nearest_multi_vectors

    def counted(self, *arguments):
        asked.append(arguments)
        return nearest(self, *arguments)

    monkeypatch.setattr(type(index), "nearest_multi_vectors", counted)
    told = list(model.iter_heatmaps(view, query, label_field="told", index=index))
    assert told == [(done, 7) for done in range(8)] and len(asked) == 1
    for eager, lazy in zip(*view.values(["eager", "told"]), strict=True):
        np.testing.assert_array_equal(eager.map, lazy.map)
        assert eager.query == lazy.query and eager.range == lazy.range

    # An image that cannot be read does not count as done.
    assert list(model.iter_heatmaps(broken, query, batch_size=5, num_workers=0)) == [(i, 12) for i in range(12)]


def test_what_all_pages_of_a_type_have_does_not_shine(load_demo, pages, index):
    """Asked for by type and mark, or by type and headline at once, the place is that of the mark or the headline.

    Without weights, it is in 0.8 and 0.37 of the cases.
    """
    model, found = load_demo(), []
    for sample in pages[:60]:
        page = pages.select([sample.id])
        for query in sample.boxes:
            asked = query.replace("a page", TYPE_NAMES["en"][sample.kind][0], 1)
            assert asked != query
            model.heatmaps(page, asked, num_workers=0, index=index)
            found.append(peak_is_in_the_box(page.first(), query, asked=asked))
    assert len(found) > 60 and np.mean(found) >= 0.8


def test_the_weights_are_the_variances_among_the_nearest_pages(load_demo, pages, index):
    """By the sums as the module states them."""
    model, query = load_demo(), "an invoice with a blue stamp"
    nearest = pages.sort_by_similarity(query, k=100, brain_key="weighing", dist_field="distance")
    view = pages.select(nearest.values("id")[:2])
    model.heatmaps(view, query, num_workers=0, index=index)
    processor = model.encoder.processor
    own = model.encode_prompts([query]).multi[0]
    own = own[processor.text_tokens(query, model.task, model.query_prompt_name).own]
    before, after = processor.tokens_around_image
    scores = 1 - np.array(nearest.values("distance"))
    shares = np.exp((scores - scores.max()) / (0.3 * scores.std()))
    multi = index.get_multi_vectors(nearest.values("id"))
    best = [[(multi[page_id][before:-after] @ token).max() for token in own] for page_id in nearest.values("id")]
    variances = [np.cov(column, aweights=shares, ddof=0) for column in np.transpose(best)]
    for sample in view:
        page = index.get_multi_vectors([sample.id])[sample.id][before:-after]
        heat = sum(
            variance / sum(variances) * excess((token @ page.T)[None])[0]
            for variance, token in zip(variances, own, strict=True)
        )
        expected = interpolate(heat.reshape(grid_of_file(sample.filepath, SETTINGS)).astype(np.float32))
        np.testing.assert_allclose(sample.heatmap.map, expected, atol=1e-3)
        assert expected.max() > 0.1

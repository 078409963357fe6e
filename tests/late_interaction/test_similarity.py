"""The backend through FiftyOne's own calls: a real database, the demo model, and a fresh process."""

import logging
import os
import shutil
import signal
import subprocess
import sys

import fiftyone as fo
import fiftyone.brain as fob
import fiftyone.core.odm as foo
import fiftyone.zoo as foz
import numpy as np
import pytest
from jina_embeddings_v4.demo.pages.documents import documents
from jina_embeddings_v4.demo.pages.phrases import caption
from jina_embeddings_v4.demo.pages.rendering import draw_document
from jina_embeddings_v4.engine.scoring import TokenSet, maxsim
from jina_embeddings_v4.late_interaction.similarity import prepare_index
from jina_embeddings_v4.late_interaction.stores.integrity import DamagedIndexError

MODEL = "jina-embeddings-v4-demo"
PAGES = 24
PROMPTS = ["a page with a signature", "a chart"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Page files of the demo model's test split, and a caption of each."""
    folder = tmp_path_factory.mktemp("pages")
    paths, captions = [], []
    for i, document in enumerate(documents("test", 20_000, 20_000 + PAGES)):
        paths.append(str(folder / f"{i:02}.png"))
        draw_document(document, i).save(paths[-1])
        captions.append(caption(document))
    return paths, captions


@pytest.fixture
def dataset(pages):
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=path) for path in pages[0]])
    yield dataset
    for key in dataset.list_brain_runs():
        dataset.delete_brain_run(key)
    dataset.delete()


@pytest.fixture(scope="module")
def shared(pages):
    """A dataset with an index, which tests only ask."""
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=path) for path in pages[0]])
    make_index(dataset)
    yield dataset
    dataset.delete_brain_run("late")
    dataset.delete()


@pytest.fixture(params=["local", "qdrant"])
def store(request, tmp_path):
    return {"store": request.param, "uri": str(tmp_path / request.param)}


def make_index(samples, brain_key="late", **kwargs):
    kwargs = {"model": MODEL, "batch_size": 8, "num_workers": 0} | kwargs
    return fob.compute_similarity(samples, backend="late-interaction", brain_key=brain_key, **kwargs)


def scores_by_hand(paths, prompts, model=None):
    """The ground truth: MaxSim by the scorer of the zero-shot classifier, a float32 array (pages, prompts)."""
    model = model or foz.load_zoo_model(MODEL, device="cpu")
    images = model.encoder.encode_images(paths)
    return maxsim(images.multi, TokenSet(model.encoder.encode_texts(prompts).multi)).numpy()


def test_text_search_ranks_all_pages_by_maxsim(shared, pages):
    view = shared.sort_by_similarity(PROMPTS[0], brain_key="late", dist_field="distance")

    expected = dict(zip(pages[0], scores_by_hand(pages[0], PROMPTS[:1])[:, 0], strict=True))
    paths, distances = view.values(["filepath", "distance"])
    assert paths == sorted(pages[0], key=lambda path: -expected[path])
    np.testing.assert_allclose(distances, [1 - expected[path] for path in paths], atol=2e-4)  # stored in float16


def test_each_page_is_found_by_its_caption(shared, pages):
    found = [
        shared.sort_by_similarity(said, k=1, brain_key="late").first().filepath == path
        for path, said in zip(*pages, strict=True)
    ]
    assert sum(found) >= 0.9 * PAGES


def test_scores_of_several_prompts_are_averaged(shared, pages):
    view = shared.sort_by_similarity(PROMPTS, k=5, brain_key="late", dist_field="distance")
    expected = np.sort(scores_by_hand(pages[0], PROMPTS).mean(axis=1))[::-1][:5]
    np.testing.assert_allclose(view.values("distance"), 1 - expected, atol=2e-4)


def test_reverse_returns_the_least_similar(shared):
    forth = shared.sort_by_similarity(PROMPTS[0], brain_key="late").values("id")
    back = shared.sort_by_similarity(PROMPTS[0], k=4, reverse=True, brain_key="late").values("id")
    assert back == forth[::-1][:4]


def test_page_to_page(shared):
    page = shared.skip(7).first()
    view = shared.sort_by_similarity(page.id, k=3, brain_key="late", dist_field="distance")
    assert view.first().id == page.id
    assert view.first().distance == pytest.approx(0, abs=1e-3)


def test_a_view_is_searched_alone(shared):
    part = shared.take(9, seed=51)
    found = part.sort_by_similarity(PROMPTS[0], k=5, brain_key="late").values("id")
    everywhere = shared.sort_by_similarity(PROMPTS[0], brain_key="late").values("id")
    assert found == [one for one in everywhere if one in set(part.values("id"))][:5]


def test_vectors_are_queries_too(shared):
    model = foz.load_zoo_model(MODEL, device="cpu")
    query = model.encoder.encode_texts(PROMPTS[:1])
    index = shared.load_brain_results("late")
    by_prompt = shared.sort_by_similarity(PROMPTS[0], k=6, brain_key="late").values("id")
    assert index.sort_by_similarity(query.multi[0], k=6).values("id") == by_prompt

    # What the App sends for an image that a person drops into it.
    image = shared.skip(3).first()
    assert index.sort_by_similarity(model.embed(image.filepath), k=1).first().id == image.id

    with pytest.raises(ValueError, match=r"array \(7,\)"):
        index.sort_by_similarity(np.zeros(7))


def test_its_single_vectors_serve_the_rest_of_the_brain(shared):
    index = shared.load_brain_results("late")
    points = fob.compute_visualization(shared, similarity_index=index, method="pca", num_dims=2).points
    assert points.shape == (PAGES, 2) and np.ptp(points) > 0
    fob.compute_uniqueness(shared, uniqueness_field="uniqueness", similarity_index=index)
    assert len(set(shared.values("uniqueness"))) > PAGES / 2

    # What the App's similarity panel makes of pages like these, but not like those.
    ids = shared.values("id")
    wanted, _, _ = index.get_embeddings(sample_ids=ids[:2])
    unlike, _, _ = index.get_embeddings(sample_ids=ids[2:3])
    query = 2 * np.mean([*wanted], axis=0) - np.mean([*unlike], axis=0)
    assert set(index.sort_by_similarity(query, k=2).values("id")) == set(ids[:2])


def test_few_candidates_are_ranked_by_late_interaction(dataset, pages):
    make_index(dataset, candidates=6)
    found = dataset.sort_by_similarity(PROMPTS[0], k=3, brain_key="late", dist_field="distance")

    model = foz.load_zoo_model(MODEL, device="cpu")
    singles = model.encoder.encode_images(pages[0]).single @ model.encoder.encode_texts(PROMPTS[:1]).single[0]
    chosen = np.argsort(-singles)[:6]
    scores = scores_by_hand(pages[0], PROMPTS[:1])[:, 0]
    expected = sorted(chosen, key=lambda i: -scores[i])[:3]
    assert found.values("filepath") == [pages[0][i] for i in expected]

    # As many as are asked for, if those are more.
    assert len(dataset.sort_by_similarity(PROMPTS[0], k=10, brain_key="late")) == 10
    assert len(dataset.sort_by_similarity(PROMPTS[0], brain_key="late")) == PAGES


def test_pages_in_one_bit_a_dimension(dataset, pages):
    index = make_index(dataset, dtype="binary", candidates=8)
    assert index.config.gate == "binary"
    rows = index.get_multi_vectors(dataset.values("id"))
    assert {len(np.unique(vectors)) for vectors in rows.values()} == {2}
    found = [
        dataset.sort_by_similarity(said, k=1, brain_key="late", dist_field="distance").first().filepath == path
        for path, said in zip(*pages, strict=True)
    ]
    assert sum(found) >= 0.85 * PAGES
    page = dataset.first()
    assert dataset.sort_by_similarity(page.id, k=1, brain_key="late", dist_field="distance").first().id == page.id
    assert dataset[page.id].distance == pytest.approx(0, abs=1e-5)


def test_an_index_of_before_gets_another_gate(dataset):
    index = make_index(dataset[:16])
    folder = index._store.folder
    # As it was stored before there were gates.
    runs = foo.get_db_conn().runs
    runs.update_one({"config.index_name": index.config.index_name}, {"$unset": {"config.gate": 1}})
    dataset.clear_cache()
    before = dataset.load_brain_results("late")
    assert before.config.gate == "single"
    expected = dataset[:16].sort_by_similarity(PROMPTS[0], k=5, brain_key="late").values("id")

    made = make_index(dataset, gate="binary", candidates=12)
    assert made.total_index_size == PAGES and len(list(folder.glob("*.bits"))) == 1 and made.check() == []
    dataset.clear_cache()
    assert dataset.load_brain_results("late").config.gate == "binary"
    assert dataset[:16].sort_by_similarity(PROMPTS[0], k=5, brain_key="late").values("id") == expected


def test_an_index_is_prepared_without_the_model_and_continued(dataset, tmp_path, monkeypatch):
    settings = {"model": MODEL, "supports_prompts": True, "pool_factor": 2, "uri": str(tmp_path)}
    load = foz.load_zoo_model
    monkeypatch.setattr("fiftyone.zoo.load_zoo_model", lambda *_: pytest.fail("the model was loaded"))
    assert prepare_index(dataset.limit(3), "late", **settings).total_index_size == 0
    monkeypatch.setattr("fiftyone.zoo.load_zoo_model", load)
    dataset.load_brain_results("late").add_samples(dataset, num_workers=0)

    # It keeps its settings, and refuses others.
    index = prepare_index(dataset, "late", model=MODEL)
    assert index.total_index_size == PAGES and index.config.pool_factor == 2
    assert len(dataset.sort_by_similarity(PROMPTS[0], k=3, brain_key="late")) == 3
    with pytest.raises(ValueError, match="made with pool_factor=2"):
        prepare_index(dataset, "late", model=MODEL, pool_factor=3)


def test_both_stores_answer_alike(dataset, store, pages):
    make_index(dataset, **store)
    view = dataset.sort_by_similarity(PROMPTS, k=5, brain_key="late", dist_field="distance")
    expected = scores_by_hand(pages[0], PROMPTS).mean(axis=1)
    assert view.values("filepath") == [pages[0][i] for i in np.argsort(-expected)[:5]]
    np.testing.assert_allclose(view.values("distance"), 1 - np.sort(expected)[::-1][:5], atol=1e-3)

    part = dataset[5:15]
    inside = part.sort_by_similarity(PROMPTS[0], k=4, brain_key="late").values("id")
    assert len(inside) == 4 and set(inside) <= set(part.values("id"))
    page = dataset.last()
    assert dataset.sort_by_similarity(page.id, k=1, brain_key="late").first().id == page.id


@pytest.mark.parametrize("quantization", ["scalar", "binary"])
def test_qdrant_s_quantisation_is_kept_with_the_run(dataset, tmp_path, quantization):
    place = {"store": "qdrant", "uri": str(tmp_path / "qdrant")}
    make_index(dataset.limit(2), quantization=quantization, **place)
    dataset.clear_cache()
    index = dataset.load_brain_results("late")
    vectors = index._store.client.get_collection(index.config.index_name).config.params.vectors
    assert all(getattr(vectors[kind].quantization_config, quantization) for kind in ("single", "multi"))
    with pytest.raises(ValueError, match=f"was made with quantization='{quantization}'"):
        make_index(dataset, **place)


def test_an_index_grows_and_shrinks(dataset, store):
    first = dataset[:10]
    index = make_index(first, **store)
    assert index.total_index_size == 10
    before = dataset.sort_by_similarity(PROMPTS[0], brain_key="late")
    assert sorted(before.values("id")) == sorted(first.values("id"))

    # As FiftyOne's documentation does it.
    embeddings, sample_ids, label_ids = index.compute_embeddings(dataset[8:14], skip_existing=True, num_workers=0)
    assert len(embeddings) == 4 and label_ids is None
    index.add_to_index(embeddings, sample_ids)
    assert index.total_index_size == 14

    # In one call, which holds one batch at a time.
    index.add_samples(dataset, batch_size=4, num_workers=0)
    assert index.total_index_size == PAGES

    gone = dataset[3:6].values("id")
    index.remove_from_index()  # of nothing
    assert len(index.get_multi_vectors()) == len(index.get_embeddings()[0]) == PAGES
    index.remove_from_index(sample_ids=gone)
    assert index.total_index_size == PAGES - 3
    assert not set(gone) & set(dataset.sort_by_similarity(PROMPTS[0], k=PAGES, brain_key="late").values("id"))
    with pytest.raises(ValueError, match=gone[0]):
        index.remove_from_index(sample_ids=gone, allow_missing=False)
    with pytest.raises(ValueError, match="were not found in the index"):
        dataset.sort_by_similarity(gone[0], k=2, brain_key="late")

    ids, paths = dataset[:2].values(["id", "filepath"])
    kept, sample_ids, _ = index.get_embeddings(sample_ids=ids)
    assert sample_ids.tolist() == ids
    truth = foz.load_zoo_model(MODEL, device="cpu").encoder.encode_images(paths)
    np.testing.assert_allclose(kept, truth.single, atol=1e-3)
    np.testing.assert_allclose(index.get_multi_vectors(ids)[ids[1]], truth.multi[1], atol=1e-3)


def test_existing_ids_are_kept_replaced_or_refused(dataset):
    index = make_index(dataset[:4])
    embeddings, _, _ = index.compute_embeddings(dataset[4:8], num_workers=0)
    ids = dataset[:4].values("id")
    with pytest.raises(ValueError, match="already exist"):
        index.add_to_index(embeddings, ids, overwrite=False, allow_existing=False)

    before = index.get_embeddings(sample_ids=ids)[0]
    index.add_to_index(embeddings, ids, overwrite=False)
    np.testing.assert_array_equal(index.get_embeddings(sample_ids=ids)[0], before)
    index.add_to_index(embeddings, ids)
    np.testing.assert_allclose(index.get_embeddings(sample_ids=ids)[0], embeddings.single, atol=1e-3)
    assert index.total_index_size == 4

    with pytest.raises(TypeError, match="add_samples"):
        index.add_to_index(np.zeros((2, 128)), ids[:2])


def test_the_same_call_again_embeds_only_what_is_new(dataset, monkeypatch):
    make_index(dataset[:10])
    from jina_embeddings_v4.zoo import JinaV4

    seen = []
    encode_images = JinaV4.encode_images
    monkeypatch.setattr(
        JinaV4, "encode_images", lambda self, images, **kw: seen.extend(images) or encode_images(self, images, **kw)
    )
    index = make_index(dataset)
    assert len(seen) == PAGES - 10
    assert index.total_index_size == PAGES
    assert dataset.load_brain_results("late") is index

    with pytest.raises(ValueError, match="pool_factor=1"):
        make_index(dataset, pool_factor=2)


KILLED = """
import sys, time
import fiftyone as fo, fiftyone.brain as fob
from jina_embeddings_v4.zoo import JinaV4

encode_images = JinaV4.encode_images
JinaV4.encode_images = lambda self, images, **kw: (
    print("batch", flush=True), time.sleep(0.3), encode_images(self, images, **kw)
)[-1]
fob.compute_similarity(
    fo.load_dataset(sys.argv[1]), backend="late-interaction", model="jina-embeddings-v4-demo", brain_key="late",
    batch_size=2, num_workers=0,
)
"""


def test_a_killed_run_goes_on(dataset):
    dataset.persistent = True
    process = subprocess.Popen([sys.executable, "-c", KILLED, dataset.name], stdout=subprocess.PIPE, text=True)
    for _ in range(5):
        assert "batch" in process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()

    dataset.reload()
    assert dataset.list_brain_runs() == ["late"]
    # What was added is found, though the run was not finished.
    assert 0 < len(dataset.sort_by_similarity(PROMPTS[0], brain_key="late")) < PAGES
    index = make_index(dataset)
    assert index.total_index_size == PAGES
    assert sorted(index.sample_ids) == sorted(dataset.values("id"))
    alone = make_index(dataset, "alone")
    for key in ("late", "alone"):
        assert len(set(dataset.sort_by_similarity(PROMPTS[0], brain_key=key).values("id"))) == PAGES
    np.testing.assert_allclose(
        index.get_embeddings(dataset.values("id"))[0],
        alone.get_embeddings(dataset.values("id"))[0],
        atol=1e-3,
    )


FRESH = """
import sys
import fiftyone as fo
view = fo.load_dataset(sys.argv[1]).sort_by_similarity(sys.argv[2], k=3, brain_key="late")
print(*view.values("id"))
assert not any(f"jina_embeddings_v4.{room}" in name for name in sys.modules for room in ("demo", "finetuning"))
"""


def test_a_fresh_process_answers(dataset, store):
    dataset.persistent = True
    index = make_index(dataset, **store)
    expected = dataset.sort_by_similarity(PROMPTS[0], k=3, brain_key="late").values("id")
    if store["store"] == "qdrant":
        # A folder is for one process at a time, unlike a server. An index itself closes nothing.
        index._store.client.close()

    answer = subprocess.run(
        [sys.executable, "-c", FRESH, dataset.name, PROMPTS[0]], capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split()[-3:] == expected
    if store["store"] == "qdrant":
        dataset.load_brain_results("late", cache=False)


def test_pages_that_another_process_adds_are_found(dataset):
    index = make_index(dataset[:12])
    other = dataset.load_brain_results("late", cache=False)
    other.add_samples(dataset, num_workers=0)
    assert index.total_index_size == PAGES
    assert len(dataset.sort_by_similarity(PROMPTS[0], brain_key="late")) == PAGES
    assert len(dataset[6:18].sort_by_similarity(PROMPTS[0], brain_key="late")) == 12


def test_an_unreadable_image_costs_itself_alone(dataset, tmp_path, caplog):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    dataset.add_sample(fo.Sample(filepath=str(bad)))
    with caplog.at_level(logging.WARNING):
        index = make_index(dataset)
    assert str(bad) in caplog.text
    assert index.total_index_size == PAGES
    with pytest.raises(Exception, match="bad.png"):
        make_index(dataset, "strict", skip_failures=False)


def test_deleting_the_run_deletes_the_files(dataset):
    index = make_index(dataset)
    folder = os.path.join(index.config.uri, index.config.index_name)
    assert os.listdir(folder)
    dataset.delete_brain_run("late")
    assert not os.path.exists(folder)

    index = make_index(dataset)
    folder = os.path.join(index.config.uri, index.config.index_name)
    index.cleanup()
    assert not os.path.exists(folder) and index.total_index_size == 0


def test_a_clone_searches_the_index_and_leaves_it_alone(dataset):
    index = make_index(dataset[:5])
    clone = dataset.clone()
    found = clone.sort_by_similarity(PROMPTS[0], k=3, brain_key="late").values("filepath")
    assert found == dataset.sort_by_similarity(PROMPTS[0], k=3, brain_key="late").values("filepath")
    for change in (
        lambda: make_index(clone),
        lambda: clone.load_brain_results("late").add_samples(clone),
        lambda: clone.load_brain_results("late").remove_from_index(clone.values("id")[:1]),
    ):
        with pytest.raises(ValueError, match="clone"):
            change()
    clone.delete_brain_run("late")
    clone.delete()
    assert index.total_index_size == 5
    assert len(dataset.sort_by_similarity(PROMPTS[0], brain_key="late")) == 5


def test_views_that_are_no_images_are_refused(dataset):
    for sample in dataset[:2].iter_samples(autosave=True):
        sample["parts"] = fo.Detections(detections=[fo.Detection(label="part", bounding_box=[0, 0, 1, 0.5])])
    with pytest.raises(ValueError, match="patches_field"):
        make_index(dataset.to_patches("parts"))
    assert make_index(dataset.to_patches("parts"), "parts", patches_field="parts").total_index_size == 2

    groups = fo.Dataset()
    group = fo.Group()
    groups.add_samples([fo.Sample(filepath=dataset.first().filepath, group=group.element("left"))])
    with pytest.raises(Exception, match="select_group_slices"):
        make_index(groups)
    groups.delete()


def test_many_patches_are_embedded_some_at_a_time(dataset, monkeypatch):
    from jina_embeddings_v4.late_interaction import indexing

    monkeypatch.setattr(indexing, "_PATCHES_AT_ONCE", 3)
    box = [0, 0, 1, 0.5]
    for i, sample in enumerate(dataset[:5].iter_samples(autosave=True)):
        sample["parts"] = fo.Detections(detections=[fo.Detection(label="p", bounding_box=box) for _ in range(i)])
    index = make_index(dataset, patches_field="parts")
    assert index.total_index_size == 10
    index.remove_from_index(label_ids=dataset.values("parts.detections.id", unwind=True)[2:9:2])
    assert index.total_index_size == 6
    assert make_index(dataset, patches_field="parts").total_index_size == 10


def test_nothing_but_unreadable_images_is_an_error(dataset, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    dataset.set_values("filepath", [str(bad)] * len(dataset))
    with pytest.raises(ValueError, match=f"None of {PAGES} images"):
        make_index(dataset)


def test_queries_of_any_kind_of_collection(shared):
    index = shared.load_brain_results("late")
    ids = shared.values("id")[:2]
    expected = index.sort_by_similarity(ids, k=4).values("id")
    for query in (tuple(ids), np.array(ids), (one for one in ids), dict.fromkeys(ids)):
        assert index.sort_by_similarity(query, k=4).values("id") == expected
    prompts = index.sort_by_similarity(PROMPTS, k=4).values("id")
    assert index.sort_by_similarity((one for one in PROMPTS), k=4).values("id") == prompts


def test_a_model_that_was_passed_as_an_object_serves_once_it_is_set(dataset):
    index = make_index(dataset[:3], model=foz.load_zoo_model(MODEL, device="cpu"))
    assert len(index.sort_by_similarity(PROMPTS[0], k=2)) == 2
    again = dataset.load_brain_results("late", cache=False)
    # As FiftyOne reads an index; and the message itself names the attribute.
    again = type(index)._from_dict({}, dataset, again.config, "late")
    with pytest.raises(ValueError, match="index._model"):
        again.sort_by_similarity(PROMPTS[0], k=2)
    again._model = foz.load_zoo_model(MODEL, device="cpu")
    assert len(again.sort_by_similarity(PROMPTS[0], k=2)) == 2


def test_an_index_whose_files_are_gone_says_so(dataset):
    index = make_index(dataset[:3])
    folder = os.path.join(index.config.uri, index.config.index_name)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match=folder):
        dataset.sort_by_similarity(PROMPTS[0], brain_key="late")


def test_patches(dataset):
    rows = [[0, 0, 1, 0.5], [0, 0.5, 1, 0.5]]
    for sample in dataset[:6].iter_samples(autosave=True):
        sample["parts"] = fo.Detections(detections=[fo.Detection(label="part", bounding_box=row) for row in rows])
    index = make_index(dataset, patches_field="parts")
    assert index.total_index_size == 12

    patches = dataset.to_patches("parts")
    view = patches.sort_by_similarity(PROMPTS[0], k=5, brain_key="late", dist_field="distance")
    assert len(view) == 5 and view.values("distance") == sorted(view.values("distance"))
    crops = {}
    from PIL import Image

    for patch in patches:
        image = Image.open(patch.filepath).convert("RGB")
        x, y, width, height = patch.parts.bounding_box
        left, top = int(x * image.width), int(y * image.height)
        crops[patch.id] = np.asarray(image)[top : top + int(height * image.height), left:]
    scores = dict(zip(crops, scores_by_hand(list(crops.values()), PROMPTS[:1])[:, 0], strict=True))
    assert set(view.values("id")[:3]) == set(sorted(scores, key=lambda one: -scores[one])[:3])

    with pytest.raises(ValueError, match="patches_field='parts'"):
        make_index(dataset, "regions", roi_field="parts")

    # From samples, patches are found too; and one by another.
    found = dataset.sort_by_similarity(PROMPTS[0], k=3, brain_key="late").values("id")
    assert found == list(dict.fromkeys(patches[nearest].sample_id for nearest in view.values("id")[:3]))
    one = patches.last().id
    assert patches.sort_by_similarity(one, k=1, brain_key="late").first().id == one

    # New patches alone are embedded.
    sample = dataset.skip(6).first()
    sample["parts"] = fo.Detections(detections=[fo.Detection(label="part", bounding_box=rows[0])])
    sample.save()
    assert make_index(dataset, patches_field="parts").total_index_size == 13


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"store": "elsewhere"}, "elsewhere"),
        ({"dtype": "float64"}, "float64"),
        ({"pool_factor": 0}, "pool_factor"),
        ({"candidates": 0}, "candidates"),
        ({"gate": "bits"}, "'single', 'binary'"),
        ({"store": "qdrant", "dtype": "int8"}, "Qdrant"),
        ({"store": "qdrant", "gate": "binary"}, "Qdrant"),
        ({"store": "qdrant", "quantization": "ternary"}, "expected one of 'scalar', 'binary'"),
        ({"quantization": "binary"}, "Qdrant"),
        ({"embeddings_field": "vectors"}, "vectors"),
        ({"embeddings": np.zeros((PAGES, 3))}, "leave out embeddings"),
        ({"uri": "http://localhost:6333"}, "qdrant"),
        ({"model": "clip-vit-base32-torch"}, "multi-vectors"),
    ],
)
def test_wrong_arguments_are_named_and_leave_nothing(shared, arguments, said, monkeypatch):
    if "model" in arguments:
        monkeypatch.setattr(foz, "load_zoo_model", lambda name, **kwargs: object())
    with pytest.raises(ValueError, match=said):
        make_index(shared, "wrong", **arguments)
    assert "wrong" not in shared.list_brain_runs()


def test_pooled_tokens_take_less_room_and_find_the_same(dataset, pages):
    whole, pooled = make_index(dataset), make_index(dataset, "pooled", pool_factor=3)
    ids = dataset.values("id")
    rows = [sum(map(len, index.get_multi_vectors(ids).values())) for index in (whole, pooled)]
    assert rows[1] == pytest.approx(rows[0] / 3, rel=0.05)
    found = [
        dataset.sort_by_similarity(said, k=1, brain_key="pooled").first().filepath == path
        for path, said in zip(*pages, strict=True)
    ]
    assert sum(found) >= 0.85 * PAGES


def test_an_empty_view_makes_an_empty_index(dataset):
    index = make_index(dataset.match_tags("none"))
    assert index.total_index_size == 0
    assert len(dataset.sort_by_similarity(PROMPTS[0], k=3, brain_key="late")) == 0
    index.add_samples(dataset, num_workers=0)
    assert len(dataset.sort_by_similarity(PROMPTS[0], k=3, brain_key="late")) == 3


def test_the_same_call_repairs_an_index_whose_files_are_damaged(dataset, caplog):
    index = make_index(dataset[:6])
    ids = dataset[:6].values("id")
    before = index.get_multi_vectors(ids)
    assert index.check() == []
    path = os.path.join(index.config.uri, index.config.index_name, "000000.multi")
    os.truncate(path, os.path.getsize(path) // 2)
    again = dataset.load_brain_results("late", cache=False)
    with pytest.raises(DamagedIndexError, match=path):
        again.sort_by_similarity(PROMPTS[0])
    assert again.check()

    with caplog.at_level(logging.WARNING):
        repaired = make_index(dataset[:6])
    assert path in caplog.text
    assert repaired.total_index_size == 6 and repaired.check() == []
    for one, vectors in repaired.get_multi_vectors(ids).items():
        np.testing.assert_allclose(vectors, before[one], atol=1e-3)


AT_ONCE = """
import sys
import fiftyone as fo, fiftyone.brain as fob, fiftyone.zoo as foz

dataset = fo.load_dataset(sys.argv[1])
view = dataset[int(sys.argv[2]) : int(sys.argv[3])]
foz.load_zoo_model("jina-embeddings-v4-demo")
print("ready", flush=True)
sys.stdin.readline()
fob.compute_similarity(
    view, backend="late-interaction", model="jina-embeddings-v4-demo", brain_key="late", num_workers=0,
    uri=sys.argv[4], batch_size=4
)
"""


def test_two_processes_that_make_one_index_at_once_share_it(dataset, tmp_path):
    dataset.persistent = True
    uri = str(tmp_path / "indexes")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, dataset.name, start, stop, uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for start, stop in (("0", "8"), ("8", "16"))
    ]
    for process in processes:
        assert "ready" in process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    dataset.reload()
    assert len(os.listdir(uri)) == 1
    index = dataset.load_brain_results("late", cache=False)
    assert sorted(index.sample_ids) == sorted(dataset[:16].values("id"))


def test_a_name_of_an_index_is_its_own_and_stays_in_its_folder(dataset, tmp_path):
    uri = str(tmp_path / "indexes")
    with pytest.raises(ValueError, match="index_name='../../x'"):
        make_index(dataset[:2], uri=uri, index_name="../../x")
    make_index(dataset[:2], uri=uri, index_name="mine")
    with pytest.raises(ValueError, match=f"'late' of the dataset '{dataset.name}'"):
        make_index(dataset[:2], "other", uri=uri, index_name="mine")
    assert dataset.list_brain_runs() == ["late"] and os.listdir(uri) == ["mine"]

    # A new run with the key that another had keeps apart from it.
    renamed = make_index(dataset[:2], "first", uri=uri)
    dataset.rename_brain_run("first", "second")
    assert make_index(dataset[:3], "first", uri=uri).total_index_size == 3
    assert renamed.total_index_size == 2


def test_a_folder_that_cannot_be_written_leaves_no_run(dataset, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        make_index(dataset[:2], uri=str(tmp_path / "file"))
    assert dataset.list_brain_runs() == []


def test_unknown_arguments_are_refused_with_the_nearest(dataset):
    with pytest.raises(TypeError, match="'pool_facto': did you mean 'pool_factor'"):
        make_index(dataset[:2], pool_facto=3)
    assert dataset.list_brain_runs() == []
    make_index(dataset[:2])
    with pytest.raises(TypeError, match="did you mean 'candidates'"):
        make_index(dataset[:2], candidate=3)


@pytest.mark.parametrize("query, k, said", [("", 3, "empty"), (" ", 3, "empty"), (PROMPTS[0], -3, "k"), ([], 3, "")])
def test_an_empty_query_and_a_wrong_k_are_refused(shared, query, k, said):
    with pytest.raises(ValueError, match=said):
        shared.load_brain_results("late").sort_by_similarity(query, k=k)


def test_an_array_that_may_be_single_vectors_or_tokens_is_refused(dataset, monkeypatch):
    model = foz.load_zoo_model(MODEL, device="cpu")
    index = make_index(dataset[:6])
    # No model has vectors of such dimensions here, and FiftyOne asks by a method of its own.
    monkeypatch.setattr(index._store, "dims", lambda: (128, 128))
    with pytest.raises(ValueError, match="may be a multi-vector or 2 single vectors"):
        index.sort_by_similarity(np.ones((2, 128), np.float32))
    # What FiftyOne asks with all vectors of an index is of single ones, each for itself.
    monkeypatch.setattr(index._store, "search", lambda query, **kwargs: ([], [], []) if query.multi is None else None)
    assert len(index._kneighbors(np.ones((2, 128), np.float32), k=2)[0]) == 2
    monkeypatch.undo()
    both = model.encode_prompts(PROMPTS[:1])
    assert len(index.sort_by_similarity(both, k=2)) == 2


def test_a_call_without_a_model_says_which_to_pass(dataset, monkeypatch):
    """FiftyOne has loaded its own default by then, before it asks the backend."""
    monkeypatch.setattr(foz, "load_zoo_model", lambda name, **_: object())
    with pytest.raises(ValueError, match="Late interaction needs a model: pass model='jinaai/jina-embeddings-v4'"):
        fob.compute_similarity(dataset, backend="late-interaction", brain_key="late")
    assert not dataset.list_brain_runs()

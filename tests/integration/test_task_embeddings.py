"""Several tasks' embeddings in one pass are those of a pass for each."""

import fiftyone as fo
import numpy as np
import pytest

TASKS = ("retrieval", "text-matching", "code")


@pytest.mark.parametrize("settings, dim", [({}, 256), ({"truncate_dim": 64}, 64), ({"pooling_strategy": "max"}, 128)])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_fields_hold_what_a_pass_for_each_task_writes(load_demo, dataset, settings, dim, num_workers):
    model = load_demo(**settings)
    fields = {task: f"in_{task.replace('-', '_')}" for task in TASKS}
    model.compute_task_embeddings(dataset, fields, batch_size=5, num_workers=num_workers)
    for task, field in fields.items():
        model.task = task
        expected = dataset.compute_embeddings(model, batch_size=5, num_workers=0)
        found = np.stack(dataset.values(field))
        assert found.shape == (len(dataset), dim) and isinstance(dataset.get_field(field), fo.VectorField)
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_the_model_keeps_its_own_task(load_demo, dataset):
    model = load_demo(task="code")
    model.compute_task_embeddings(dataset, {"retrieval": "vector"})
    assert model.task == "code"
    expected = load_demo().embed_images(dataset.values("filepath"))
    np.testing.assert_allclose(np.stack(dataset.values("vector")), expected, atol=2e-6)


def test_an_unreadable_image_costs_itself_alone(load_demo, dataset, tmp_path, caplog):
    broken = tmp_path / "broken.png"
    broken.write_text("not an image")
    sample = dataset.skip(3).first()
    sample.filepath = str(broken)
    sample.save()

    model, fields = load_demo(), {"retrieval": "one", "code": "other"}
    model.compute_task_embeddings(dataset[:6], fields, batch_size=4, num_workers=2)
    for field in fields.values():
        assert [vector is None for vector in dataset.values(field)] == [False] * 3 + [True] + [False] * 2 + [True] * 6
    assert caplog.text.count("Skipping an image") == 1

    with pytest.raises(ValueError, match="broken.png"):
        model.compute_task_embeddings(dataset, fields, skip_failures=False)
    with pytest.raises(ValueError, match="task='search'"):
        model.compute_task_embeddings(dataset, {"search": "vector"})


def test_vectors_of_another_width_are_not_overwritten(load_demo, dataset):
    model = load_demo()
    dataset.compute_embeddings(model, embeddings_field="vector", batch_size=4, num_workers=0)
    before = dataset.values("vector")
    model.pooling_strategy = "max"
    with pytest.raises(ValueError, match="'vector' holds vectors of 256 dimensions, and the model now gives 128"):
        model.compute_task_embeddings(dataset, {"code": "vector"}, num_workers=0)
    np.testing.assert_array_equal(np.stack(dataset.values("vector")), np.stack(before))

    model.compute_task_embeddings(dataset, {"code": "vector"}, num_workers=0, overwrite=True)
    assert {len(vector) for vector in dataset.values("vector")} == {128}


def test_an_interrupted_call_goes_on_with_what_lacks_a_vector(load_demo, dataset, monkeypatch):
    model = load_demo()
    fields = {"retrieval": "one", "code": "two"}
    model.compute_task_embeddings(dataset[:5], fields, num_workers=0)
    dataset[:1].clear_sample_field("two")

    embedded = []
    encode = model.encode_images
    monkeypatch.setattr(
        type(model), "encode_images", lambda self, images, *a: embedded.extend(images) or encode(images, *a)
    )
    model.compute_task_embeddings(dataset, fields, num_workers=0, skip_existing=True)
    assert len(embedded) == 12 - 4
    assert not any(vector is None for field in ("one", "two") for vector in dataset.values(field))

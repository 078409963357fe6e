"""What is on a page, and which combinations are kept for the test."""

from jina_embeddings_v4.demo.pages.documents import SPLITS, TYPES, Document, Mark, documents


def test_a_document_satisfies_what_is_said_of_it_and_nothing_else():
    document = Document("bar chart", (("colour", "green"), ("bars", 4)), "Acme", (Mark("stamp", "red", "top left"),))

    assert document.satisfies(document.facts())
    assert document.satisfies([])
    assert document.satisfies([("type", "bar chart"), ("mark", "stamp", None, "top left")])
    for wrong in (
        ("type", "pie chart"),
        ("bars", 3),
        ("headline", "Nova"),
        ("mark", "stamp", "blue", None),
        ("mark", "star", "red", "top left"),
    ):
        assert not document.satisfies([("type", "bar chart"), wrong])


def test_documents_are_the_same_each_time_and_of_every_type():
    assert list(documents("test", 3, 40)) == list(documents("test", 0, 40))[3:]
    for split in SPLITS:
        assert {document.type for document in documents(split, 0, 2 * len(TYPES))} == set(TYPES)


def test_twins_differ_in_one_fact():
    pages = list(documents("train", 0, 400))
    for one, other in zip(pages[::2], pages[1::2], strict=True):
        assert len(set(one.facts()) - set(other.facts())) == len(set(other.facts()) - set(one.facts())) == 1


def test_a_test_page_holds_a_combination_that_training_does_not():
    def combinations(document):
        """The type with all its details, and with each mark's kind and colour."""
        details = {document.details} if len(document.details) > 1 else set()
        return {(document.type, combination) for combination in details} | {
            (document.type, mark.kind, mark.colour) for mark in document.marks
        }

    trained = set().union(
        *map(combinations, documents("train", 0, 60_000)), *map(combinations, documents("validation", 0, 2000))
    )
    for document in documents("test", 0, 2000):
        assert combinations(document) - trained

"""The tutorial runs from its first cell to its last, and what is committed is what it gives."""

import re
import sys
from pathlib import Path

import jina_embeddings_v4
import nbformat
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TUTORIAL = EXAMPLES / "tutorial.ipynb"

# A wheel holds neither how pages are drawn nor the calendars.
pytestmark = pytest.mark.skipif(
    not Path(jina_embeddings_v4.__file__).with_name("benchmarks").is_dir(), reason="needs the repository, not a wheel"
)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The tutorial after a run in this Python, with the suite's database, in folders of its own."""
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        patch.setenv("FIFTYONE_DATABASE_NAME", "tutorial")
        patch.setenv("FIFTYONE_DEFAULT_DATASET_DIR", str(folder))
        from notebooks import execute

        yield execute(TUTORIAL)


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(TUTORIAL, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def lines(cell):
    """The lines that a cell prints but for figures, and for the items of lists."""
    text = "".join(output.get("text", "") for output in cell.outputs)
    return [re.sub(r"[\d.]+", "#", line) for line in text.splitlines() if not line.startswith("  ")]


def printed(notebook, start):
    """What the one cell that prints a line with such a start prints."""
    texts = ["".join(output.text for output in cell.outputs if "text" in output) for cell in code_cells(notebook)]
    (text,) = [text for text in texts if re.search(f"^{start}", text, re.MULTILINE)]
    return text


def scores(notebook, *indexes):
    """The nDCG@5 of indexes, from the table that has them."""
    text = printed(notebook, indexes[0])
    return [float(re.search(rf"^{index} +(\S+)", text, re.MULTILINE)[1]) for index in indexes]


def check(notebook):
    """Whether a run of the tutorial shows what its sentences say."""
    ranks = re.findall(r"invoice No (\d+) +(\d+) +(\d+)", printed(notebook, "the invoice's rank"))
    assert len(ranks) == 4 and all(both == "1" for _, _, both in ranks)
    assert any(int(vectors) > 1 for _, vectors, _ in ranks)
    assert printed(notebook, "found:") == "found: invoice/03.png\n"

    found = re.search(
        r"(\d+)% of the labels are right; blind guessing gets (\d+)%", printed(notebook, ".* of the labels")
    )
    accuracy, chance = found.groups()
    assert int(accuracy) > 5 * int(chance)
    single, late = scores(notebook, "single vectors", "late interaction")
    assert single > 0.85 and late > 0.85
    before, after = scores(notebook, "before", "after")
    assert after > before + 0.1

    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) == 4
    assert not [output.text for output in outputs(notebook) if output.get("name") == "stderr"]


def test_it_runs_and_shows_what_it_says(executed):
    check(executed)


def test_the_committed_outputs_are_of_a_whole_run(committed, executed):
    check(committed)
    assert [cell.execution_count for cell in code_cells(committed)] == list(range(1, len(code_cells(committed)) + 1))
    for shown, cell in zip(code_cells(committed), code_cells(executed), strict=True):
        assert [output.output_type for output in shown.outputs] == [output.output_type for output in cell.outputs]
        assert lines(shown) == lines(cell)


def test_the_committed_file_is_small_and_names_no_machine(committed):
    assert TUTORIAL.stat().st_size < 1.5e6
    text = "".join(output.get("text", "") for output in outputs(committed))
    assert sys.prefix not in text and not re.search(r"(/home|/root|/tmp|/work|/Users)/", text)

"""Runs a notebook in place, in this Python, and stops at the first cell that fails.

    python examples/notebooks.py examples/tutorial.ipynb

``make tutorial`` does it with a FiftyOne of its own.
"""

import sys
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient


def execute(path, timeout=600):
    """Runs a notebook, whose folder is the working directory.

    Args:
        path: the notebook's path
        timeout (600): the seconds that a cell may take

    Returns:
        the :class:`nbformat.NotebookNode` with its outputs

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails
    """
    notebook = nbformat.read(path, as_version=4)
    # Without folders of kernels, Jupyter starts the Python that runs this, and none that a person has registered.
    kernel = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=timeout,
        resources={"metadata": {"path": str(Path(path).parent)}},
        # What a cell prints comes in one or in several messages, by chance.
        coalesce_streams=True,
        # The times of the run would change the file each time.
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
    )
    return client.execute()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    path = sys.argv[1]
    notebook = execute(path)
    # The patch of the Python that ran it says nothing about the notebook.
    notebook.metadata.pop("language_info", None)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main()

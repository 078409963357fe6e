"""Programs that measure. Those that need no dataset run without FiftyOne, too, as on a rented GPU."""

import importlib.util
import sys
import types
from pathlib import Path

HAS_FIFTYONE = importlib.util.find_spec("fiftyone") is not None

if not HAS_FIFTYONE:
    # The package's own start imports FiftyOne. Its engine does not.
    package = types.ModuleType("jina_embeddings_v4")
    package.__path__ = [str(Path(__file__).resolve().parent.parent)]
    sys.modules["jina_embeddings_v4"] = package

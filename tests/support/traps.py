"""Files that a repository may hold and that must never be run: each gives itself away by a file that it writes."""

import json
import pickle
import runpy
from pathlib import Path

MODULES = ("modeling_jina_embeddings_v4.py", "configuration_jina_embeddings_v4.py", "custom_st.py")
PICKLES = ("pytorch_model.bin", "adapters/adapter_model.bin", "training_args.bin")


class _Touch:
    """Pickled, it is an order to create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def set_traps(checkpoint, evidence):
    """Puts Python modules, the settings that ask for their import, and pickles into a checkpoint.

    Args:
        checkpoint: the checkpoint's directory
        evidence: the path of the file that any of them writes when it is imported or unpickled
    """
    for name in MODULES:
        (checkpoint / name).write_text(f"open({str(evidence)!r}, 'w').close()\n")
    for name in PICKLES:
        (checkpoint / name).write_bytes(pickle.dumps(_Touch(evidence)))

    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        settings = json.loads((checkpoint / name).read_text())
        classes = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor")
        settings["auto_map"] = {auto: "modeling_jina_embeddings_v4.Anything" for auto in classes}
        (checkpoint / name).write_text(json.dumps(settings))

    # A trap that does not go off would catch nothing.
    for go_off in (
        lambda: runpy.run_path(str(checkpoint / MODULES[0])),
        lambda: pickle.loads((checkpoint / PICKLES[0]).read_bytes()),
    ):
        go_off()
        evidence.unlink()

"""Finds a checkpoint, on disk or on the hub, and reads its JSON files.

A checkpoint is a directory in the layout of the ``jinaai/jina-embeddings-v4`` repository. It is a local directory, or
comes from the Hugging Face hub, at a pinned revision, into the Hugging Face cache. Only safetensors, JSON and text
files are downloaded or read. All other files of the repository are ignored, above all Python and pickles.

Nothing here needs torch.
"""

import hashlib
import json
import logging
import os
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .schema import CONFIG, Schema, find_config_problem, find_problem

REPOSITORY = "jinaai/jina-embeddings-v4"
REVISION = "853c867b65b749f3c3c72a06868140d842e04f06"

WEIGHT_INDEX = "model.safetensors.index.json"
ADAPTERS = "adapters"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = (f"{ADAPTERS}/{ADAPTER_CONFIG}", f"{ADAPTERS}/{ADAPTER_WEIGHTS}")

REQUIRED_FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json", *ADAPTER_FILES)

# The tokenizer is in one file, or in two of an older layout. Without them, transformers would silently create its own.
TOKENIZER_LAYOUTS = (("tokenizer.json",), ("vocab.json", "merges.txt"))

# Names, not suffixes: files that are not listed are not read.
TRUSTED_FILES = (
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "model*.safetensors",
    WEIGHT_INDEX,
    *ADAPTER_FILES,
)


# Seconds to wait for the hub to answer.
_HUB_TIMEOUT = 8

logger = logging.getLogger(__name__)

_HUB_REFERENCE = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class CheckpointError(ValueError):
    """A checkpoint that is missing, incomplete or inconsistent. The message names the file and what to do."""


def resolve(reference: str | os.PathLike, download: bool = True) -> Path:
    """Finds a checkpoint's directory. Downloads it if it is not in the cache.

    Args:
        reference: a local directory, or ``"org/name"`` or ``"org/name@revision"`` on the Hugging Face hub. Without a
            revision, ``jinaai/jina-embeddings-v4`` is read at the commit :data:`REVISION`, and any other repository
            at its ``main`` branch
        download (True): whether to download what is not in the cache, instead of raising an error

    Returns:
        the :class:`pathlib.Path` of a directory that holds every required file

    Raises:
        CheckpointError: if there is no such directory or repository, or a file is missing or altered
    """
    directory = Path(reference).expanduser()
    if directory.is_dir():
        check_files(directory)
        return directory

    match = _HUB_REFERENCE.fullmatch(str(reference))
    if match is None:
        raise CheckpointError(
            f"There is no checkpoint at {str(reference)!r}: it is neither an existing directory nor of the form "
            "'org/name' or 'org/name@revision'"
        )

    return _from_hub(match["repository"], match["revision"], download)


def _from_hub(repository, revision, download):
    from huggingface_hub import snapshot_download

    if revision is None:
        revision = REVISION if repository == REPOSITORY else "main"

    request = {"repo_id": repository, "revision": revision, "allow_patterns": list(TRUSTED_FILES)}

    try:
        cached = Path(snapshot_download(**request, local_files_only=True))
        check_files(cached)
    except (OSError, ValueError):  # not cached, incomplete, or not a valid repository name
        cached = None

    # A commit never changes, so a complete copy needs no network. A branch may have moved.
    if cached is not None and (_COMMIT.fullmatch(revision) or not download):
        return cached
    if not download:
        raise CheckpointError(f"The weights of {repository!r} are not on this machine")

    snapshot = _download(request, cached)
    if snapshot != cached:
        if _delete_altered(repository, snapshot):
            _download(request)
            altered = _delete_altered(repository, snapshot)
            if altered:
                raise CheckpointError(
                    f"Downloaded from {repository!r}, {', '.join(map(str, altered))} twice did not have the hash that "
                    "the hub publishes, and was deleted. Something alters it on the way: try another network"
                )

        check_files(snapshot)

    return snapshot


def _download(request, cached=None):
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        # Without a network, the client retries silently for half a minute. So ask once first. If the hub answers, even
        # with an error, the client takes over.
        try:
            HfApi().model_info(request["repo_id"], revision=request["revision"], timeout=_HUB_TIMEOUT)
        except HfHubHTTPError:
            pass
        except Exception:
            if cached is None:
                raise
            return cached
        return Path(snapshot_download(**request))
    except Exception as error:
        raise CheckpointError(
            f"Could not download {request['repo_id']!r} at revision {request['revision']!r}: {error}. Check the name, "
            "the network and, for a private repository, `hf auth login`; the files that did arrive are kept for the "
            "next attempt. Without a network, pass checkpoint='/path/to/a/copy'"
        ) from error


def _delete_altered(repository, snapshot):
    """Compares a new download with the hashes that the hub publishes, and deletes files that differ.

    Returns:
        the paths of the deleted files
    """
    from huggingface_hub import HfApi

    try:
        report = HfApi().verify_repo_checksums(repository, revision=snapshot.name)
    # Which errors mean "no network" depends on the client's version. The download itself is complete.
    except Exception as error:
        logger.warning("Could not compare %s with the hub's checksums: %s", snapshot, error)
        return []

    names = [mismatch["path"] for mismatch in report.mismatches]
    altered = [snapshot / name for name in names if any(fnmatch(name, pattern) for pattern in TRUSTED_FILES)]
    for path in altered:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    return altered


def check_files(directory: str | os.PathLike) -> None:
    """Checks that all files of a checkpoint exist, and that its JSON files are valid.

    Args:
        directory: the checkpoint's directory

    Raises:
        CheckpointError: naming the missing files, or the damaged file
    """
    directory = Path(directory)
    required = [*REQUIRED_FILES, WEIGHT_INDEX]
    missing = [name for name in required if not (directory / name).is_file()]
    if not any(all((directory / name).is_file() for name in layout) for layout in TOKENIZER_LAYOUTS):
        missing.append("tokenizer.json")
    if WEIGHT_INDEX not in missing:
        missing += sorted(shard.name for shard in set(weight_shards(directory).values()) if not shard.is_file())

    if missing:
        raise CheckpointError(
            f"The checkpoint in {directory} lacks {', '.join(missing)}. It must have the layout of {REPOSITORY} on the "
            "Hugging Face hub; download it again or point `checkpoint` at a complete copy"
        )

    # transformers reads some of them, but its errors do not name the file.
    for name in TRUSTED_FILES:
        if name.endswith(".json") and (directory / name).is_file():
            read_json(directory / name)


def read_json(path: str | os.PathLike) -> Any:
    """Reads one of a checkpoint's JSON files.

    Args:
        path: the file

    Returns:
        the decoded value

    Raises:
        CheckpointError: if the file cannot be read, or is not valid JSON
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:  # RecursionError: deeply nested lists
        raise CheckpointError(f"{path} is not valid JSON ({error}). Delete it and download it again") from error


def read_config(directory: str | os.PathLike) -> dict[str, Any]:
    """Reads the network's settings from ``config.json``.

    Other keys are dropped: among them are flash-attn, which may not be installed, and the repository's own Python code,
    which is never run.

    Args:
        directory: the checkpoint's directory

    Returns:
        a dict with the keys of :data:`engine.schema.CONFIG`

    Raises:
        CheckpointError: naming the key that is missing, or whose value is not allowed
    """
    path = Path(directory) / "config.json"
    config = read_json(path)
    problem = find_config_problem(config)
    if problem is not None:
        raise CheckpointError(f"{path} {problem}: it is not the config.json of a checkpoint like {REPOSITORY}")

    return {key: config[key] for key in CONFIG}


def read_settings(path: str | os.PathLike, schema: Schema) -> dict[str, Any]:
    """Reads one of a checkpoint's JSON files, and checks it against a schema.

    Args:
        path: the file
        schema: one of :mod:`engine.schema`

    Returns:
        the decoded dict

    Raises:
        CheckpointError: naming the key that is missing, or whose value is not allowed
    """
    settings = read_json(path)
    problem = find_problem(settings, schema)
    if problem is not None:
        raise CheckpointError(f"{path} {problem}. It is damaged, or of another model: download it again")

    return settings


def fingerprint(directory: str | os.PathLike) -> str:
    """Returns a hash of the contents of a directory's weights. A copy of the directory has the same.

    It reads all weights, which takes some seconds for gigabytes.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(directory).rglob("*.safetensors")):
        with open(path, "rb") as file:
            digest.update(str(path.relative_to(directory)).encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def weight_shards(directory: str | os.PathLike) -> dict[str, Path]:
    """Reads from the index which file holds which tensor of the base model.

    Args:
        directory: the checkpoint's directory

    Returns:
        a dict that maps tensor names to shard paths

    Raises:
        CheckpointError: if the index is damaged, or names a file outside the directory or of another format
    """
    index = Path(directory) / WEIGHT_INDEX
    weight_map = read_json(index)
    weight_map = weight_map.get("weight_map") if isinstance(weight_map, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no 'weight_map'. Delete it and download it again")

    for key, shard in weight_map.items():
        is_name = isinstance(shard, str) and Path(shard).name == shard and len(shard) < 256
        if not is_name or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} places {key!r} in {shard!r}: expected the name of a .safetensors file beside it"
            )

    return {key: Path(directory) / shard for key, shard in weight_map.items()}

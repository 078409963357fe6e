"""A Hugging Face hub on loopback, for the real client to download from, that fails and cheats when told to."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class LoopbackHub:
    """Serves repositories while it is used as a context.

    Args:
        port: the port on 127.0.0.1

    Attributes:
        repositories: the directory of each repository, by name and commit
        branches: the commit of each branch, by name and branch
        requests: what was asked for, as ``(method, path, range header or None)``
        altered: the names of files of which other bytes are sent than were published, as many
        altered_once: the same, the first time that they are sent
        cut: for each file name, the number of bytes after which the connection breaks, once
        lost: the names of files of which no more is sent once the connection broke
    """

    def __init__(self, port):
        self._port = port
        self.repositories, self.branches = {}, {}
        self.requests = []
        self.altered, self.altered_once, self.cut, self.lost = set(), set(), {}, set()

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args):
        self.stop()

    def stop(self):
        """Takes the hub off the network."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def downloads(self):
        """The names of the files whose contents were asked for, in order."""
        return [path.split("/", 5)[5] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def log_message(self, *args):
        pass

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers["Range"]))

        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not api and not file:
            return self._send(404)

        repository, revision = (api[1], api[3]) if api else (file[1], file[2])
        commit = self.hub.branches.get((repository, revision), revision)
        directory = self.hub.repositories.get((repository, commit))
        if directory is None:
            known = any(repository == name for name, _ in self.hub.repositories)
            return self._send(404, {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})

        if file:
            return self._send_file(directory, file[3], commit)
        if api[2] == "revision":
            return self._send_json({"id": repository, "sha": commit, "siblings": []})
        return self._send_json([_entry(directory, path) for path in sorted(directory.rglob("*"))])

    def _send_file(self, directory, name, commit):
        if not (directory / name).is_file():
            return self._send(404, {"X-Error-Code": "EntryNotFound"})

        cut = self.hub.cut.pop(name, None) if self.command == "GET" else None
        if name in self.hub.lost and self.command == "GET" and cut is None:
            return self._send(503)

        content = (directory / name).read_bytes()
        entry = _entry(directory, directory / name)
        published = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{published}"', "Accept-Ranges": "bytes"}
        is_altered_now = self.command == "GET" and name in self.hub.altered_once
        if name in self.hub.altered or is_altered_now:
            self.hub.altered_once.discard(name)
            content = content[:-1] + bytes([content[-1] ^ 1])

        status, start = 200, 0
        if self.headers["Range"]:
            status, start = 206, int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"

        self._send(status, headers, content[start:], cut)

    def _send_json(self, value):
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _send(self, status, headers=None, content=b"", cut=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:cut])


def _entry(directory, path):
    """Describes a file as the hub's listing does: large files by their SHA-256, others by git's hash."""
    name = path.relative_to(directory).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40}

    content = path.read_bytes()
    entry = {
        "type": "file",
        "path": name,
        "size": len(content),
        "oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
    }
    if path.suffix in (".safetensors", ".bin"):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 128}

    return entry

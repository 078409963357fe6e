"""URLs are downloaded within limits, lead nowhere that they must not, and are named without their secrets."""

import base64
import functools
import http.server
import threading
import time

import numpy as np
import pytest
from jina_embeddings_v4.engine import downloads
from jina_embeddings_v4.engine.image_files import ImageError
from jina_embeddings_v4.engine.image_loading import describe, load_image
from PIL import Image


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(np.random.default_rng(51).integers(0, 256, (60, 90, 3), dtype=np.uint8))


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and under other paths what a hostile server may."""

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        path, _, query = self.path.partition("?")
        answer = getattr(self, path.rpartition("/")[2].replace("-", "_"), super().do_GET)
        try:
            answer(*([query] if query else []))
        except OSError:
            pass  # the client has closed the connection, as it should

    def endless_body(self, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        while True:
            self.wfile.write(bytes(1 << 16))
            self.server.sent += 1 << 16

    def slow_body(self):
        self.send_response(200)
        self.end_headers()
        self.slowly()

    def slow_header(self):
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
        self.slowly()

    def slowly(self):
        for _ in range(600):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def to(self, address):
        self.endless_body(302, Location=address)

    def loop(self):
        self.to("/loop")

    def log_message(self, *args):
        pass


@pytest.fixture
def server(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)) as server:
        server.daemon_threads, server.block_on_close = True, False
        server.seen, server.sent = [], 0
        server.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(server, monkeypatch):
    """Makes the server the proxy for all but itself, so that it answers for addresses of the internet, too."""
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return server


def test_an_address_is_fetched(server, photo):
    np.testing.assert_array_equal(load_image(f"{server.address}/photo.png"), photo)
    with pytest.raises(ImageError, match=f"{server.address}/missing.png: .*404"):
        load_image(f"{server.address}/missing.png")


def test_a_body_without_end_is_given_up(server, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_BYTES", 3_000_000)
    with pytest.raises(ImageError, match="endless-body: ValueError: it has over 3000000 bytes"):
        load_image(f"{server.address}/endless-body")


@pytest.mark.parametrize("path", ["slow-header", "slow-body"])
def test_a_server_that_takes_its_time_is_given_up(server, monkeypatch, path):
    """Each byte comes soon enough for a socket's own timeout."""
    monkeypatch.setattr(downloads, "MAX_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(ImageError, match=f"{path}: TimeoutError: the download took over 0.5 s"):
        load_image(f"{server.address}/{path}")

    assert time.monotonic() - start < 20  # the server would take 30 s
    deadline = time.monotonic() + 20
    while any(thread.name.endswith("(run)") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, f"the download goes on: {threading.enumerate()}"
        time.sleep(0.02)


def test_redirects_are_followed_to_http_alone(server, photo):
    """The bodies of these redirects have no end, and are not read."""
    np.testing.assert_array_equal(load_image(f"{server.address}/to?/photo.png"), photo)
    np.testing.assert_array_equal(load_image(f"{server.address}/to?{server.address}/photo.png"), photo)
    for address in ("ftp://127.0.0.1/photo.png", "file:///etc/hostname", "data:image/png;base64,AAAA"):
        with pytest.raises(ImageError, match="redirects to a URL that is not http|a redirect that cannot be followed"):
            load_image(f"{server.address}/to?{address}")
    with pytest.raises(ImageError, match="HTTP status 302, a redirect that cannot be followed"):
        load_image(f"{server.address}/loop")

    assert server.sent < 100_000_000


@pytest.mark.parametrize("inside", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "[::1]", "2130706433"])
def test_the_internet_does_not_lead_to_this_machine_s_network(proxy, inside):
    port = proxy.server_port
    with pytest.raises(ImageError, match="redirects from the internet to an address of this machine or its network"):
        load_image(f"http://93.184.216.34/to?http://{inside}:{port}/photo.png")

    assert [path for path, _ in proxy.seen] == [f"http://93.184.216.34/to?http://{inside}:{port}/photo.png"]


def test_an_escaped_host_is_refused(proxy):
    """It would be checked as it is written, and then connected to as it is meant."""
    with pytest.raises(ImageError, match="an invalid URL"):
        load_image(f"http://93.184.216.34/to?http://127%2E0.0.1:{proxy.server_port}/photo.png")


def test_this_machine_s_network_may_be_asked_for(proxy, photo):
    with pytest.raises(ImageError, match="404"):
        load_image("http://10.0.0.1/missing.png")
    np.testing.assert_array_equal(load_image(f"{proxy.address}/to?{proxy.address}/photo.png"), photo)


def test_user_and_password_go_to_their_host_alone(server, photo):
    address = f"http://user:pass%20word@127.0.0.1:{server.server_port}/to?/photo.png"
    np.testing.assert_array_equal(load_image(address), photo)
    (_, first), (_, second) = server.seen
    assert base64.b64decode(first["Authorization"].removeprefix("Basic ")) == b"user:pass word"
    assert "Authorization" not in second


@pytest.mark.parametrize(
    "source, name",
    [
        ("https://user:secret@x.test:8/a/b.png?token=secret&secret#secret", "https://x.test:8/a/b.png?token=...&..."),
        ("HTTP://secret@x.test", "HTTP://x.test"),
        ("http://[secret@x.test/a.png", "http://x.test/a.png"),
        ("scans/\x1b[31mred\n.png", r"scans/\x1b[31mred\n.png"),
        ("scans/caf\u00e9 \u5199\u771f.png", "scans/caf\u00e9 \u5199\u771f.png"),
        ("scans/\u202egnp.png", r"scans/\u202egnp.png"),
        ("scans/\udcff.png", r"scans/\udcff.png"),
    ],
)
def test_messages_hold_neither_secrets_nor_control_characters(source, name):
    assert describe(source) == name


def test_errors_hold_neither_secrets_nor_control_characters(server):
    port = server.server_port
    for address in (
        f"http://user:secret@127.0.0.1:{port}/missing?token=secret word\x1b[31m",
        f"http://user:secret@127.0.0.1:{port}/to?/missing?token=secret",
        f"http://user:secret@127.0.0.1:{port}/to?gopher://user:secret@x/",
        "http://user:secret@[x/",
        "http://user:secret@x\u2100.test/",
        "http://user:secret@127.0.0.1:port/",
    ):
        with pytest.raises(ImageError) as failure:
            load_image(address)
        assert "secret" not in str(failure.value) and str(failure.value).isprintable()

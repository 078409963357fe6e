"""Downloads from http(s) URLs, within limits: a hostile server must not fill the memory or block a run."""

import base64
import http.client
import io
import ipaddress
import re
import socket
import string
import threading
import urllib.error
import urllib.request
from typing import TypeGuard
from urllib.parse import quote, unquote, urlsplit, urlunsplit

MAX_BYTES = 100_000_000
MAX_SECONDS = 60

_CHUNK = 1 << 20  # bytes


def is_url(source: object) -> TypeGuard[str]:
    """Whether a value is an http(s) URL."""
    return isinstance(source, str) and re.match("https?://", source, re.IGNORECASE) is not None


def readable(path: str) -> str:
    """Formats a path or URL for messages.

    Unprintable characters are escaped. User and password, the fragment and the query's values are removed from URLs.
    """
    if is_url(path):
        scheme, _, rest = path.partition("://")
        rest, _, query = rest.partition("#")[0].partition("?")
        host, slash, path = rest.partition("/")
        path = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
        if query:
            path += "?" + "&".join(f"{name}=..." if equals else "..." for name, equals, _ in _fields(query))

    return escape(path)


def _fields(query):
    return (field.partition("=") for field in query.split("&"))


def escape(text: str) -> str:
    """Escapes unprintable characters, such as terminal control codes, as Python's ``repr`` does."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def download(url: str) -> io.BytesIO:
    """Downloads an http(s) URL.

    Redirects to http(s) URLs are followed, but not from the internet to an address of this machine or its network.

    Args:
        url: the URL. A user and password in it are sent to its host only

    Returns:
        the content, as a binary file object

    Raises:
        TimeoutError: if the download takes over :data:`MAX_SECONDS`
        ValueError: if the content has over :data:`MAX_BYTES`, or the URL or a redirect is not allowed
        OSError: if the download fails
    """
    # In a thread, since a server can delay steps that have no timeout: name look-up, handshake, each header.
    running = _Download(url)
    thread = threading.Thread(target=running.run, daemon=True)
    try:
        thread.start()
        thread.join(MAX_SECONDS)
        in_time = not thread.is_alive()
    finally:
        running.stop()

    if not in_time:
        raise TimeoutError(f"the download took over {MAX_SECONDS} s")
    if running.error is not None:
        raise running.error

    return running.content


class _Download:
    """One download, which runs in its own thread."""

    def __init__(self, url):
        self.content = None
        self.error = None
        self._url = url
        self._sockets = []
        self._stopped = False
        self._on_internet = False

    def run(self):
        try:
            self.content = self._read()
        except urllib.error.HTTPError as error:
            error.close()
            redirects = ", a redirect that cannot be followed" if 300 <= error.code < 400 else ""
            self.error = OSError(f"the server answered with HTTP status {error.code}{redirects}")
        except Exception as error:
            self.error = error

    def stop(self):
        """Closes the open connections."""
        self._stopped = True
        for connection in self._sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # already closed

    def check_target(self, is_local):
        """Refuses a redirect from the internet to a local address. Called before each request is sent."""
        if is_local and self._on_internet:
            raise ValueError("it redirects from the internet to an address of this machine or its network")

        self._on_internet = not is_local

    def add_connection(self, connection):
        """Registers an open connection, for :meth:`stop` to close."""
        self._sockets.append(connection)
        if self._stopped:
            raise TimeoutError("the download was stopped")

    def _read(self):
        # Only these handlers: urllib's default opener also reads files and FTP.
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _HTTPHandler(self),
            _HTTPSHandler(self),
            _RedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            opener.add_handler(handler)

        with opener.open(_request(self._url), timeout=MAX_SECONDS) as response:
            content = io.BytesIO()
            while chunk := response.read(_CHUNK):
                content.write(chunk)
                if content.tell() > MAX_BYTES:
                    raise ValueError(f"it has over {MAX_BYTES} bytes")

        content.seek(0)
        return content


def _request(url):
    url, user = _split_user(url)
    request = urllib.request.Request(url)
    if user:
        token = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")

    return request


def _split_user(url):
    """Splits a URL into one without credentials, and the ``user:password``."""
    try:
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        # urllib unescapes the host later, and would connect to another host than the one that is checked.
        if parts.hostname and "%" not in host:
            path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
            return urlunsplit((parts.scheme, host, path, query, "")), user
    except ValueError:
        pass  # its message may contain the password

    raise ValueError("it is, or redirects to, an invalid URL")


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, response, code, message, headers, url):
        # Otherwise urllib reads the body to its end, which may never come.
        response.close()
        if not is_url(url):
            raise ValueError("it redirects to a URL that is not http(s)")

        return super().redirect_request(request, response, code, message, headers, _split_user(url)[0])


class _Opener:
    """The common part of the handlers of both schemes."""

    def __init__(self, download):
        super().__init__()
        self._download = download

    def do_open(self, connection_class, request, **options):
        download, host = self._download, urlsplit(request.full_url).hostname
        proxied = request.host != urlsplit(request.full_url).netloc
        if proxied:
            download.check_target(_is_local_name(host))

        class Connection(connection_class):
            def connect(self):
                super().connect()
                download.add_connection(self.sock)
                if not proxied:
                    # The connected peer's address, since a name may resolve to another address each time.
                    download.check_target(_is_local(self.sock.getpeername()[0]))

        return super().do_open(Connection, request, **options)


class _HTTPHandler(_Opener, urllib.request.HTTPHandler):  # type: ignore[misc]
    def http_open(self, request):
        return self.do_open(http.client.HTTPConnection, request)


class _HTTPSHandler(_Opener, urllib.request.HTTPSHandler):  # type: ignore[misc]
    def https_open(self, request):
        return self.do_open(http.client.HTTPSConnection, request)


def _is_local(address):
    address = ipaddress.ip_address(address.partition("%")[0])
    return not (getattr(address, "ipv4_mapped", None) or address).is_global


def _is_local_name(host):
    try:
        return any(_is_local(address[0]) for *_, address in socket.getaddrinfo(host, None))
    except OSError:
        return False  # only the proxy can resolve the name

"""Post requests to one server by HTTP, bounded in time and size, and say in words what failed.

What requests and replies mean is the business of `openai_backend`.
"""

import asyncio
import os
import re
import ssl
import urllib.request
import zlib
from dataclasses import dataclass

import httpx2

from stages.distil.interface.errors import UserError
from stages.distil.teachers.openai_replies import LONGEST_COMPLAINT
from stages.distil.teachers.secret import Secret

LONGEST_REPLY = 4 * 2**20  # bytes, after decompression; a text of 100,000 tokens has half a million
MOST_REDIRECTS = 3


class FailedError(Exception):
    """A request failed for a reason that may pass; the message says which."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait  # seconds that the server asks for


@dataclass(frozen=True)
class Reply:
    """A server's reply; `body` is decompressed, and cut off at LONGEST_COMPLAINT if an error."""

    status: int
    headers: httpx2.Headers
    body: bytes


class Transport:
    """The connections to one server. Use it in a running event loop."""

    def __init__(self, name: str, url: str, path: str, timeout: float, secret: Secret):
        """Take the teacher's name, the server's address, the path that follows it and the limits.

        `timeout` is in seconds, for a whole exchange. Raises `UserError` if the address, the proxy
        that the environment names for it, or the certificates cannot be used.
        """
        self.url = url
        self._name = name
        self._timeout = timeout
        self._secret = secret
        self._heard = False  # anything from the server
        try:
            base = httpx2.URL(url)
            self._target = base.copy_with(path=f"{base.path.rstrip('/')}/{path}")
            if not 0 <= (base.port or 0) < 2**16:
                raise ValueError("its port is not below 65536")
            base.host.encode("idna")  # as it is resolved
            self._proxy = _proxy(base)
        except (httpx2.InvalidURL, ValueError) as error:  # a UnicodeError is a ValueError
            raise UserError(f"models.{name}.url: {url!r} is not an address: {error}") from None
        self._http = self._open()

    def _open(self) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        try:
            # Reading the certificates takes a while; without any, no certificate is accepted.
            certificates = (
                httpx2.create_ssl_context()  # reads SSL_CERT_FILE
                if self._target.scheme == "https"
                else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            )
            return httpx2.AsyncClient(
                verify=certificates,
                proxy=self._proxy,
                trust_env=False,
                follow_redirects=False,
                timeout=None,  # `post` limits the whole
                limits=limits,
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            missing = isinstance(error, ImportError)
            reason = "SOCKS needs the package socksio" if missing else error
            raise UserError(
                f"models.{self._name}: the environment names the proxy {_without_user(self._proxy)}"
                f" for {self.url}, which cannot be used ({reason}); unset it, or add "
                f"{self._target.host} to NO_PROXY"
            ) from None
        except OSError as error:
            raise UserError(f"the certificates that SSL_CERT_FILE names: {error}") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def post(self, body: bytes) -> Reply:
        """Return the reply to a request, all of it read within the time limit."""
        headers = self._secret.headers()
        headers |= {"Content-Type": "application/json", "Accept-Encoding": "gzip"}
        target = self._target
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(1 + MOST_REDIRECTS):
                    async with self._http.stream(
                        "POST", target, content=body, headers=headers
                    ) as response:
                        self._heard = True
                        if not response.has_redirect_location:
                            content = await _read(response)
                            return Reply(response.status_code, response.headers, content)
                        target = self._redirected(target, response)
                raise UserError(
                    f"models.{self._name}: {self.url} redirects in a loop; set "
                    f"models.{self._name}.url to the server's own address"
                )
        except TimeoutError:
            reason = f"no whole answer in {self._timeout:g} s (models.{self._name}.timeout)"
        except (httpx2.ConnectError, httpx2.ProxyError) as error:
            reason = f"no connection to {self.url}: {_cause(error)}{_hint(error)}"
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            reason = f"the connection to {self.url} was closed: {_cause(error)}"
            if target.scheme == "http" and not self._heard:
                reason += " (the port may speak https, not http)"
        raise FailedError(self.through_proxy(self._secret.presentable(reason)))

    def _redirected(self, target: httpx2.URL, response: httpx2.Response) -> httpx2.URL:
        """Return where a reply redirects a request to; raise `UserError` if that is elsewhere."""
        location = response.headers["Location"]
        try:
            new = target.join(location)
        except (httpx2.InvalidURL, ValueError):
            new = target.copy_with(host="invalid")
        origin = (target.scheme, target.host, target.port)
        if response.status_code in (307, 308) and (new.scheme, new.host, new.port) == origin:
            return new
        reason = self._secret.presentable(f"HTTP {response.status_code}, to {location}")
        raise UserError(
            f"models.{self._name}: {self.url} redirects ({reason}), which is not followed: prompts "
            f"and the key go to the named server alone; set models.{self._name}.url to the "
            "server's own address"
        )

    def through_proxy(self, reason: str) -> str:
        """Say in a reason through which proxy the request went, if through any."""
        if not self._proxy:
            return reason
        proxy = _without_user(self._proxy)
        return f"{reason} (through the proxy {proxy}; NO_PROXY={self._target.host} avoids it)"


async def _read(response: httpx2.Response) -> bytes:
    """Return a reply's body, decompressed; raise `FailedError` if it is too long or damaged.

    No more than the limit is ever in memory: httpx would decompress without one.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise FailedError(f"HTTP {response.status_code} in an encoding that was not asked for")
    is_compressed = encoding not in ("identity", "")
    decompressor = zlib.decompressobj(wbits=47)  # gzip or zlib, as the header says
    is_error = response.status_code != 200
    limit = LONGEST_COMPLAINT if is_error else LONGEST_REPLY
    body = bytearray()
    async for chunk in response.aiter_raw():
        if is_compressed:
            try:
                chunk = decompressor.decompress(chunk, limit + 1 - len(body))
            except zlib.error as error:
                raise FailedError(f"the response is not {encoding}: {error}") from None
        body += chunk
        if len(body) > limit:
            if is_error:
                return bytes(body[:limit])
            raise FailedError(f"the response is longer than {LONGEST_REPLY / 2**20:g} MiB")
    if is_compressed and not decompressor.eof:
        raise FailedError(f"the response ends in the middle of its {encoding}")
    return bytes(body)


def _proxy(url: httpx2.URL) -> str | None:
    """Return the proxy that the environment names for an address."""
    host = url.host if url.port is None else f"{url.host}:{url.port}"
    if urllib.request.proxy_bypass(host) or urllib.request.proxy_bypass(url.host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _without_user(proxy: str | None) -> str:
    """Return a proxy's address without the name and password that it may contain."""
    return re.sub(r"//.*@", "//", proxy or "")


def _cause(error: BaseException) -> str:
    """Return the text of what a chain of errors began with."""
    text = ""
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        text = _text(error) or text
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = inner or error.__cause__ or error.__context__ or error
    return text or type(error).__name__


def _text(error: BaseException) -> str:
    """Return an error's text; asyncio's own for a refused connection does not say that it was."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno:
        return os.strerror(error.errno) if error.errno > 0 else error.strerror or str(error)
    return str(error)


def _hint(error: BaseException) -> str:
    """Return what to do about an error of TLS, in parentheses, if that is known."""
    cause = _cause(error)
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        return " (name a file with the certificate of its authority in SSL_CERT_FILE)"
    if "WRONG_VERSION_NUMBER" in cause or "record layer failure" in cause:
        return " (the port may speak http, not https)"
    return ""

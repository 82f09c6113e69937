"""One way to ask an HTTP server that may do anything, and how long to wait before it is asked again.

And what the libraries of the Hugging Face hub, which ask by themselves, tell of a network that fails.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from tools.cli import UserError
from tools.shape import LARGEST

PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # HTTP statuses of trouble that may pass
MAX_RETRY_AFTER = 600.0  # seconds; a server that asks for a longer pause is asked again after this one
MAX_BACKOFF = 60.0  # seconds
HUB_LOG = "huggingface_hub.utils._http"  # the logger on which it tells of each try


@contextlib.contextmanager
def asking_hub() -> Iterator[list[str]]:
    """Around what may ask the hub: keeps what huggingface_hub prints of each of its six tries that fails.

    Where it got what it wanted nevertheless, late or from its cache, one line tells that; otherwise its error does.
    """
    failed: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        failed.append(record.getMessage())
        return False

    log = logging.getLogger(HUB_LOG)
    log.addFilter(keep)
    try:
        yield failed
    finally:
        log.removeFilter(keep)
    if failed and os.environ.get("RANK", "0") == "0":
        print(f"the hub did not answer at once, which takes half a minute: {failed[0]}", file=sys.stderr)


def network_trouble(error: BaseException) -> str:
    """What the system said of the network, such as " (Connection refused)", deep within an error of transformers, which
    only says that it could not connect; "" if nothing is there."""
    deepest = error
    while deeper := deepest.__cause__ or deepest.__context__:
        deepest = deeper
    if isinstance(deepest, FileNotFoundError):  # of the cache
        return " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") != "0" else ""
    return f" ({deepest.strerror or deepest})" if deepest is not error and isinstance(deepest, OSError) else ""


def pause_after(attempt: int, first: float = 1.0) -> float:
    """Seconds to wait after the failed attempt number 0, 1, ...: `first`, doubled each time, half of it by chance.

    The chance keeps clients that failed together from coming back together.
    """
    return min(MAX_BACKOFF, first * 2**attempt) * random.uniform(0.5, 1.0)


def retry_after(reply: requests.Response) -> float:
    """Seconds that a reply's Retry-After header (seconds or a date) asks for, at most `MAX_RETRY_AFTER`; 0 if none."""
    value = reply.headers.get("Retry-After", "").strip()
    try:
        seconds = float(value) if value.isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError):  # absent or malformed
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


class Client(requests.Session):
    """A session that leaves redirects to `post`: by itself, requests reads the whole body of each to look ahead."""

    def get_redirect_target(self, _: requests.Response) -> None:
        return None


class ReplyTooLarge(requests.RequestException):
    """More bytes than any real reply has, after decompression."""


class ReplyTooSlow(requests.RequestException):
    """Not whole within the time for the whole exchange, however steadily it drips."""


class UnreadableReply(requests.RequestException):
    """No HTTP, no JSON, or JSON that nests or counts without limits."""


def post(
    send: Callable[..., requests.Response],
    url: str,
    seconds: float,
    most: int,
    stopping: threading.Event | None = None,
    **how: Any,
) -> requests.Response:
    """A reply of at most `most` bytes, read whole within `seconds`; `send` is a `Client`'s `post`.

    The exchange runs in a thread that nobody waits for longer: Ctrl-C, or `stopping`, ends the call at once. Raises
    requests.RequestException for trouble that may pass, UserError for a redirect to another server.
    """
    outcome: queue.SimpleQueue[requests.Response | Exception] = queue.SimpleQueue()

    def exchange() -> None:
        try:
            outcome.put(_read(send, url, seconds, most, how))
        except requests.RequestException as error:
            outcome.put(error)
        except (OSError, ValueError, urllib3.exceptions.HTTPError):  # what requests lets through, of a bad header
            outcome.put(UnreadableReply())
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=exchange, daemon=True).start()
    end = time.monotonic() + seconds + 1
    while time.monotonic() < end:
        if stopping and stopping.is_set():
            raise UserError(f"the request to {_server(url)} was stopped; the same command continues")
        try:
            reply = outcome.get(timeout=0.2)
        except queue.Empty:
            continue
        if isinstance(reply, Exception):
            raise reply
        return reply
    raise ReplyTooSlow


def _read(send: Callable[..., requests.Response], url: str, seconds: float, most: int, how: Any) -> requests.Response:
    end = time.monotonic() + seconds
    for _ in range(5):  # redirects
        reply = send(url, stream=True, allow_redirects=False, timeout=(10.0, seconds), **how)
        if not reply.is_redirect:
            break
        target = urljoin(url, reply.headers["Location"])
        reply.close()
        if _server(target) != _server(url):  # neither the key nor the questions go there
            raise UserError(f"{_server(url)} redirects to another server, {_server(target)}; name it if it is meant")
        url = target
    else:
        raise requests.TooManyRedirects
    content = bytearray()
    for chunk in reply.iter_content(1 << 16):
        content += chunk
        if len(content) > most:
            reply.close()
            raise ReplyTooLarge
        if time.monotonic() > end:
            reply.close()
            raise ReplyTooSlow
    reply._content = bytes(content)
    return reply


def is_address(url: str) -> bool:
    """Whether it is an http or https address."""
    try:
        return urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname) and bool(_server(url))
    except ValueError:
        return False


def _server(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def json_of(reply: requests.Response) -> Any:
    """A reply's JSON, integers within 63 bits and no infinities. Raises `UnreadableReply` for anything else."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    def integer(digits: str) -> int:
        if len(digits) > 20 or abs(int(digits)) > LARGEST:
            raise ValueError("a number of more than 63 bits")
        return int(digits)

    def finite(digits: str) -> float:
        return float(digits) if math.isfinite(float(digits)) else refuse(digits)

    try:
        return json.loads(reply.content, parse_int=integer, parse_float=finite, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise UnreadableReply from error

"""How long to wait before an HTTP server is asked again: what it asks for, or exponential backoff with jitter."""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime

import requests

PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # HTTP statuses of trouble that may pass
MAX_RETRY_AFTER = 600.0  # seconds; a server that asks for a longer pause is asked again after this one
MAX_BACKOFF = 60.0  # seconds


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

"""tools/web.py: how long to wait before a request is repeated."""

import email.utils
import time

import pytest
import requests

from tools import web


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), (None, 0), ("99999", 600), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", 0), ("-3", 0), ("", 0)],
)
def test_retry_after_in_both_forms(header, seconds):
    reply = requests.Response()
    reply.headers.update({"Retry-After": header} if header is not None else {})
    assert web.retry_after(reply) == seconds


def test_retry_after_a_date_to_come():
    reply = requests.Response()
    reply.headers["Retry-After"] = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 97 < web.retry_after(reply) <= 100


def test_pauses_double_up_to_a_minute():
    for attempt, longest in enumerate((1, 2, 4, 8, 16, 32, 60, 60)):
        assert longest / 2 <= web.pause_after(attempt) <= longest

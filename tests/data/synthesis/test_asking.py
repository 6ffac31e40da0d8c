"""The HTTP client: order, concurrency, retries, malformed replies, timeouts, cache, budget."""

import json

import pytest

from athanor.data.synthesis.asking import Endpoint, Request
from athanor.errors import AthanorError
from athanor.recipe.synthesis import EndpointOptions
from tests.data.synthesis.stub_endpoint import completion, serving, slow


def client(url, **options):
    made = Endpoint(EndpointOptions(url=url, model="stub", **options))
    made.waits = []
    made._sleep = made.waits.append
    return made


def requests(n):
    return [Request.of(f"say {i}", i, 0.5) for i in range(n)]


def test_replies_come_in_order_and_requests_run_at_once():
    with serving(lambda prompt, body, number: slow(0.05, prompt.upper())) as stub:
        made = client(stub.url, concurrency=4)
        assert [r.text for r in made.ask(requests(12))] == [f"SAY {i}" for i in range(12)]
        assert 2 <= stub.most_open <= 4
        body = stub.bodies[0]
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("stub", 0.5, 1024)
        assert sorted(b["seed"] for b in stub.bodies) == list(range(12))
        assert made.usage.requests == 12 and made.usage.tokens == 120


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ((429, {"Retry-After": "7"}, b"{}"), "status 429"),
        ((500, {}, b"oops"), "status 500"),
        ((503, {}, b""), "status 503"),
        ((200, {}, b"<html>busy</html>"), "malformed reply"),
        ((200, {}, b'{"choices": []}'), "malformed reply"),
        ((200, {}, b'{"choices": [{"message": null}]}'), "malformed reply"),
        ((200, {}, b"[1, 2]"), "malformed reply"),
        ((200, {}, completion("  ")), "empty reply"),
        ((200, {"Content-Length": "100000"}, b'{"choices"'), "malformed reply"),
    ],
)
def test_what_may_pass_is_tried_again(bad, reason):
    with serving(lambda prompt, body, number: bad if number <= 2 else "fine") as stub:
        made = client(stub.url, retries=3, timeout_s=2)
        (reply,) = made.ask(requests(1))
        assert reply.text == "fine" and made.usage.retries == 2
        if bad[0] == 429:
            assert made.waits == [7.0, 7.0]
        else:
            assert 0.25 <= made.waits[0] <= 0.75 and 0.5 <= made.waits[1] <= 1.5
    with serving(lambda prompt, body, number: bad) as stub:
        made = client(stub.url, retries=1, timeout_s=2)
        (reply,) = made.ask(requests(1))
        assert reply.text is None and reply.error == reason and len(stub.bodies) == 2
        assert made.usage.errors == {reason: 1}


def test_what_cannot_pass_is_not_tried_again():
    with serving(lambda prompt, body, number: (401, {}, b"who?")) as stub:
        (reply,) = client(stub.url).ask(requests(1))
        assert reply.error == "status 401" and len(stub.bodies) == 1


def test_timeouts_and_closed_ports():
    with serving(lambda prompt, body, number: slow(1.0, "late") if number == 1 else "soon") as stub:
        made = client(stub.url, timeout_s=0.3)
        (reply,) = made.ask(requests(1))
        assert reply.text == "soon" and made.usage.retries == 1
        url = stub.url
    (reply,) = client(url, retries=1).ask(requests(1))
    assert reply.text is None and reply.error == "no connection"


def test_the_cache_answers_what_was_asked_and_survives_a_torn_line(tmp_path):
    cache = tmp_path / "asked.jsonl"
    with serving(lambda prompt, body, number: prompt) as stub:
        list(client(stub.url, cache=str(cache)).ask(requests(4)))
        with open(cache, "a") as file:
            file.write('{"key": "torn')
        again = client(stub.url, cache=str(cache))
        assert [r.text for r in again.ask(requests(6))] == [f"say {i}" for i in range(6)]
        assert (again.usage.cached, again.usage.requests, len(stub.bodies)) == (4, 2, 6)
        assert client(stub.url, cache=str(cache)).cache.known.keys() == again.cache.known.keys()
        other = client(stub.url, cache=str(cache), max_new_tokens=5)
        list(other.ask(requests(1)))
        assert other.usage.requests == 1, "another request, another key"
    assert sum(1 for line in cache.read_text().splitlines() if _whole(line)) == 7


def _whole(line):
    try:
        return bool(json.loads(line))
    except ValueError:
        return False


def test_the_budget_holds_with_retries_counted():
    with serving(lambda prompt, body, number: "x") as stub:
        made = client(stub.url, max_requests=5, concurrency=3)
        replies = list(made.ask(requests(9)))
        assert len(stub.bodies) == 5 and [r.error for r in replies if r.text is None] == ["budget used up"] * 4
    with serving(lambda prompt, body, number: "x") as stub:
        made = client(stub.url, max_tokens=25, concurrency=1)
        assert sum(r.text is not None for r in made.ask(requests(9))) == 3
    with serving(lambda prompt, body, number: (500, {}, b"")) as stub:
        list(client(stub.url, max_requests=3, retries=9, concurrency=1).ask(requests(2)))
        assert len(stub.bodies) == 3


def test_keys_and_addresses(monkeypatch):
    monkeypatch.setenv("STUB_KEY", "abc")
    with serving(lambda prompt, body, number: "x") as stub:
        list(client(stub.url + "/chat/completions", api_key_env="STUB_KEY").ask(requests(1)))
        assert stub.headers[0]["Authorization"] == "Bearer abc"
    with pytest.raises(AthanorError, match="no key in the environment"):
        client("http://localhost:1/v1", api_key_env="NO_SUCH_KEY")
    with pytest.raises(AthanorError, match="not a web address"):
        client("localhost:1")

"""The bridge of docs/watch.md: what MLflow itself delivers, and what nobody may deliver."""

import base64
import hashlib
import hmac
import http.client
import importlib.util
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

DOCS = Path(__file__).parents[1] / "docs"
SECRET = "correct horse"
CREATED = {
    "entity": "model_version",
    "action": "created",
    "data": {"name": "digits", "version": "7", "tags": {"a": "$(reboot)"}},
}


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bridge", DOCS / "examples" / "webhook_bridge.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class GitHub(BaseHTTPRequestHandler):
    received: list[tuple[dict[str, str], Any]]
    status: int

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).received.append((dict(self.headers), json.loads(body)))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(handler: Any) -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Place:
    """A bridge that listens, and a GitHub that it dispatches to."""

    def __init__(self, port: int, github: type[GitHub]) -> None:
        self.port, self.github = port, github

    @property
    def dispatched(self) -> list[Any]:
        return [body for _, body in self.github.received]

    def post(self, body: bytes, headers: dict[str, str]) -> int:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        link.request("POST", "/", body, headers)
        status = link.getresponse().status
        link.close()
        return status

    def deliver(self, told: Any, **changes: Any) -> int:
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        return self.post(body, signed(body, **changes))


def signed(
    body: bytes, *, secret: str = SECRET, when: str | None = None, delivery: str | None = None
) -> dict[str, str]:
    """Headers, by the formula in the docs."""
    delivery = delivery or str(uuid.uuid4())
    when = when or str(int(time.time()))
    content = f"{delivery}.{when}.".encode() + body
    digest = hmac.new(secret.encode(), content, hashlib.sha256).digest()
    return {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": when,
        "X-MLflow-Signature": "v1," + base64.b64encode(digest).decode(),
    }


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    github = type("Hub", (GitHub,), {"received": [], "status": 204})
    with serving(github) as port, serving(loaded().Bridge) as bridge:
        monkeypatch.setenv("DISPATCH_URL", f"http://127.0.0.1:{port}/repos/o/r/dispatches")
        monkeypatch.setenv("MLFLOW_WEBHOOK_SECRET", SECRET)
        monkeypatch.setenv("GITHUB_TOKEN", "token")
        monkeypatch.setenv("MODELS", "digits digits-int8")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield Place(bridge, github)


def test_what_mlflow_delivers_is_dispatched(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.entities.webhook import Webhook, WebhookAction, WebhookEntity, WebhookEvent
    from mlflow.webhooks import delivery
    from mlflow.webhooks.types import ModelVersionCreatedPayload

    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http")
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
    event = WebhookEvent(WebhookEntity.MODEL_VERSION, WebhookAction.CREATED)
    told = ModelVersionCreatedPayload.example()
    told["name"] = "digits"
    hook = Webhook("1", "gate", f"http://127.0.0.1:{place.port}/", [event], 0, 0, secret=SECRET)
    with delivery._create_webhook_session() as session:
        answer = delivery._send_webhook_request(hook, told, event, session)
    assert answer.status_code == 202
    headers, body = place.github.received[0]
    assert headers["Authorization"] == "Bearer token"
    payload = {"model": "digits", "version": "1"}
    assert body == {"event_type": "model-version", "client_payload": payload}


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": "guessed"},
        {"when": "1700000000"},
        {"when": str(int(time.time()) + 3600)},
        {"when": "now"},
        {"when": "9" * 400},
        {"when": "9" * 5000},
        {"delivery": f"{uuid.uuid4()}.1"},
    ],
)
def test_what_mlflow_did_not_just_sign_is_refused(place: Place, changes: dict[str, str]) -> None:
    assert place.deliver(CREATED, **changes) == 401
    assert place.dispatched == []


def test_a_body_that_was_changed_or_not_signed_is_refused(place: Place) -> None:
    body = json.dumps(CREATED).encode()
    assert place.post(body.replace(b"7", b"8"), signed(body)) == 401
    assert place.post(body, {}) == 401
    assert place.dispatched == []


def test_a_delivery_is_dispatched_once(place: Place) -> None:
    body = json.dumps(CREATED).encode()
    headers = signed(body)
    assert [place.post(body, headers) for _ in range(3)] == [202, 204, 204]
    assert len(place.dispatched) == 1


def test_a_delivery_that_github_did_not_take_may_come_again(place: Place) -> None:
    body = json.dumps(CREATED).encode()
    headers = signed(body)
    place.github.status = 503
    assert place.post(body, headers) == 502
    place.github.status = 204
    assert place.post(body, headers) == 202


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"name": "digits-int8", "version": "7"}},
        {"data": {"name": "another", "version": "7"}},
        {"data": {"name": "digits", "version": "7; reboot"}},
        {"action": "updated"},
        {"entity": "model_version_tag", "action": "set"},
    ],
)
def test_only_new_versions_of_source_models_are_dispatched(
    place: Place, changes: dict[str, Any]
) -> None:
    assert place.deliver(CREATED | changes) == 204
    assert place.dispatched == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data": 1}', b"\xff"])
def test_what_is_no_event_is_a_bad_request(place: Place, body: bytes) -> None:
    assert place.deliver(body) == 400


def test_a_body_without_end_is_refused(place: Place) -> None:
    assert place.post(b"", {"Content-Length": str(1 << 30)}) == 413
    assert place.post(b"", {"Content-Length": "-1"}) == 413
    assert place.post(b"", {"Content-Length": "9" * 5000}) == 413


def test_the_workflow_trusts_nothing_that_it_receives() -> None:
    parts = (DOCS / "watch.md").read_text(encoding="utf-8").split("```yaml\n")[1:]
    blocks = [part.split("```")[0] for part in parts]
    told = yaml.safe_load(next(block for block in blocks if "repository_dispatch" in block))
    assert told["permissions"] == {}
    assert [job["permissions"] for job in told["jobs"].values()] == [{"contents": "read"}]
    steps = [step for job in told["jobs"].values() for step in job["steps"]]
    assert not any("${{" in step.get("run", "") for step in steps)
    assert all("@" in step["uses"] for step in steps if "uses" in step)

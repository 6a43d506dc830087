"""From MLflow's registry webhook to GitHub's `repository_dispatch`: a new version starts a CI job.

    python docs/examples/webhook_bridge.py

It needs, in the environment:

    MLFLOW_WEBHOOK_SECRET   as the webhook was created with
    MODELS                  the source models it is for: "digits reviews"
    DISPATCH_URL            https://api.github.com/repos/OWNER/REPO/dispatches
    GITHUB_TOKEN            fine-grained, of that repository alone, with `contents: write`

It listens on 127.0.0.1:8080; TLS is for the proxy in front of it. It needs no package.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import time
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, HTTPServer

TOLERANCE_S = 300
LONGEST_BODY = 1 << 20
HANDLED: dict[str, float] = {}
"""Ids of deliveries that were dispatched, and when their signatures are stale."""


def genuine(headers: Mapping[str, str], body: bytes, secret: str, now: float) -> bool:
    """Whether MLflow signed it with this secret, within the last minutes."""
    delivery, stamp = headers.get("X-MLflow-Delivery-Id", ""), headers.get("X-MLflow-Timestamp", "")
    signed = f"{delivery}.{stamp}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    expected = b"v1," + base64.b64encode(digest)
    same = hmac.compare_digest(headers.get("X-MLflow-Signature", "").encode(), expected)
    recent = re.fullmatch("[0-9]{1,12}", stamp) and abs(now - int(stamp)) <= TOLERANCE_S
    # a dot in the id would let one signature stand for another split into id, time and body
    return same and bool(recent) and re.fullmatch("[0-9a-fA-F-]{8,64}", delivery) is not None


def wanted(body: bytes, models: list[str]) -> dict[str, str] | None:
    """Name and version of a new version of one of the models; None where it is anything else."""
    told = json.loads(body)
    name, version = str(told["data"].get("name")), str(told["data"].get("version"))
    created = (told["entity"], told["action"]) == ("model_version", "created")
    ours = name in models and not name.endswith("-int8") and version.isdecimal()
    return {"model": name, "version": version} if created and ours else None


def dispatch(payload: dict[str, str]) -> None:
    """Ask GitHub to run the workflows that listen for `model-version`."""
    event = json.dumps({"event_type": "model-version", "client_payload": payload}).encode()
    headers = {
        "Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}",
        "Accept": "application/vnd.github+json",
    }
    request = urllib.request.Request(os.environ["DISPATCH_URL"], event, headers)
    with urllib.request.urlopen(request, timeout=10):
        pass


class Bridge(BaseHTTPRequestHandler):
    """One request at a time, so that a delivery cannot race with its own repetition."""

    timeout = 10

    def do_POST(self) -> None:
        """401 for what MLflow did not sign just now; a 502 makes MLflow deliver it again."""
        self.send_response(self.answer(time.time()))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, now: float) -> int:
        """Dispatch what is new; the status code."""
        length = self.headers.get("Content-Length", "")
        if not (re.fullmatch("[0-9]{1,9}", length) and int(length) <= LONGEST_BODY):
            return 413
        body = self.rfile.read(int(length))
        if not genuine(self.headers, body, os.environ["MLFLOW_WEBHOOK_SECRET"], now):
            return 401
        for delivery in [known for known, until in HANDLED.items() if until < now]:
            del HANDLED[delivery]
        try:
            payload = wanted(body, os.environ["MODELS"].split())
        except (ValueError, LookupError, TypeError, AttributeError):
            return 400
        if payload is None or self.headers["X-MLflow-Delivery-Id"] in HANDLED:
            return 204
        try:
            dispatch(payload)
        except (OSError, HTTPException) as error:
            self.log_error("not dispatched: %s", error)
            return 502
        HANDLED[self.headers["X-MLflow-Delivery-Id"]] = now + 2 * TOLERANCE_S
        return 202


if __name__ == "__main__":
    for name in ("MLFLOW_WEBHOOK_SECRET", "MODELS", "DISPATCH_URL", "GITHUB_TOKEN"):
        if not os.environ.get(name):
            raise SystemExit(f"{name} is not set")
    HTTPServer(("127.0.0.1", 8080), Bridge).serve_forever()

"""A small stand-in for the Hugging Face Hub, on this machine: what sending and fetching need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

Files = dict[str, bytes]


@dataclass
class StandIn:
    """Its repositories: for each its commits, the latest last; and what was asked of it."""

    url: str = ""
    repos: dict[str, list[Files]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def commit_of(self, repo: str, revision: str) -> tuple[str, Files] | None:
        """Name and files of a commit; None where there is none of that name."""
        for number, files in reversed([*enumerate(self.repos.get(repo, ()))]):
            name = hashlib.sha1(f"{repo} {number}".encode()).hexdigest()
            if revision in ("main", name):
                return name, files
        return None


@contextmanager
def stand_in_hub() -> Iterator[StandIn]:
    """The stand-in, while the block runs."""
    hub = StandIn()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._file(with_body=False)

    def do_GET(self) -> None:
        self._file(with_body=True)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(f"POST {path}")
        if not self.headers.get("Authorization"):
            return self._answer(401, {"error": "no token"})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.repos.setdefault(name, [])
            is_private = asked.get("private") or asked.get("visibility") == "private"
            self.hub.private.setdefault(name, bool(is_private))
            return self._answer(200, {"url": f"{self.hub.url}/{name}"})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if found is None or found[1] not in self.hub.repos:
            return self._answer(404, {"error": "none"}, {"X-Error-Code": "RepoNotFound"})
        if found[2] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        return self._commit(found[1], [json.loads(line) for line in body.splitlines()])

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        commits = self.hub.repos[repo]
        files = dict(commits[-1]) if commits else {}
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commits.append(files)
        name, _ = self.hub.commit_of(repo, "main") or ("", {})
        url = f"{self.hub.url}/{repo}/commit/{name}"
        self._answer(200, {"commitOid": name, "commitUrl": url, "hookOutput": ""})

    def _file(self, with_body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found is None or found[1] not in self.hub.repos:
            return self._answer(404, {}, {"X-Error-Code": "RepoNotFound"})
        commit = self.hub.commit_of(found[1], found[2])
        if commit is None:
            return self._answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        name, files = commit
        if found[3] not in files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": name}
            return self._answer(404, {}, headers)
        content = files[found[3]]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self._send(200, content, {"X-Repo-Commit": name, "ETag": etag}, with_body)

    def _answer(self, code: int, data: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(data).encode()
        self._send(code, content, headers or {}, self.command != "HEAD")

    def _send(self, code: int, content: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

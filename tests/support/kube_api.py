"""A small Kubernetes API over HTTP with the semantics that clients rely on; nodes that run pods are in `kubelet.py`.

    with KubeApi() as api:
        load_kube_config(str(api.write_kubeconfig(tmp_path)))
        api.create({"apiVersion": "v1", "kind": "Secret", ...})

What it keeps to: an object that exists is a 409, one that does not a 404; every object is checked strictly when it is
created, patched or replaced (422 names the field; a kind that no schema knows is a 404, as without its CRD); a replace
with an old resourceVersion is a 409; lists select by labels and fields; status is a subresource; patches are merges;
quotas refuse pods with a 403; what is deleted takes along what it owns, and a pod stays until its processes have ended.
"""

from __future__ import annotations

import copy
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from kubernetes_schemas import VERSIONS, UnknownKindError, problems

Thing = dict[str, Any]
CLUSTER_WIDE = {"namespaces", "nodes", "persistentvolumes", "priorityclasses", "clustertrainingruntimes"}
REASONS = {400: "BadRequest", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed", 409: "AlreadyExists"}
_OTHERS = {415: "UnsupportedMediaType", 422: "Invalid"}


class RefusedError(Exception):
    """What the API answers instead of an object."""

    def __init__(self, code: int, message: str, *, reason: str = "", name: str = "") -> None:
        super().__init__(message)
        self.code, self.name = code, name
        self.reason = reason or (REASONS | _OTHERS)[code]

    def status(self) -> Thing:
        """The answer's body."""
        details = {"name": self.name} if self.name else {}
        return {
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "message": str(self), "reason": self.reason, "details": details, "code": self.code,
        }  # fmt: skip


def plural_of(kind: str) -> str:
    """How the address of a kind ends: `jobs`, `networkpolicies`, `priorityclasses`."""
    word = kind.lower()
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith("s") else f"{word}s"


def merged(thing: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7386) put onto an object."""
    if not isinstance(patch, dict):
        return patch
    out = dict(thing) if isinstance(thing, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merged(out.get(key), value)
    return out


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class KubeApi:
    """The objects of one cluster, and the server that hands them out.

    Args:
        admit: refuses an object before it is created by raising `RefusedError`; what a webhook or a quota would do.
    """

    def __init__(self, *, admit: Any = None) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.requests: list[str] = []
        """Method and path of every request, in order."""
        self.admit = admit
        self.cut_streams_after = 0
        """A stream breaks after so many pieces; 0 lets it end by itself."""
        self.logs: Any = None
        """Who has the logs of pods: `kubelet.Kubelet`."""
        self._things: dict[tuple[str, str, str, str], Thing] = {}
        self._version = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="kube-api")

    @property
    def url(self) -> str:
        """Address of the API."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def write_kubeconfig(self, folder: Path, *, namespace: str = "default") -> Path:
        """A kubeconfig whose only context is this cluster."""
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": "of-tests"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        }  # fmt: skip
        path = folder / "kubeconfig"
        path.write_text(json.dumps(config), encoding="utf-8")
        return path

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def create(self, thing: Thing, *, namespace: str = "default", dry_run: bool = False) -> Thing:
        """Keeps a new object; raises `RefusedError` where one of its name is there, or it breaks a rule."""
        thing = copy.deepcopy(thing)
        plural = plural_of(thing["kind"])
        group = _group(thing["apiVersion"])
        meta = thing.setdefault("metadata", {})
        if "name" not in meta and "generateName" in meta:
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        if plural not in CLUSTER_WIDE and meta.setdefault("namespace", namespace) != namespace:
            raise RefusedError(
                400, "the namespace of the provided object does not match the namespace sent on the request"
            )
        _check(thing)
        with self.lock:
            key = (group, plural, meta.get("namespace", ""), meta["name"])
            if key in self._things:
                raise RefusedError(
                    409, f'{plural}.{group} "{meta["name"]}" already exists'.replace(". ", " "), name=key[3]
                )
            if self.admit:
                self.admit(thing)
            if dry_run:
                return thing
            if plural == "pods":
                thing["status"] = {"phase": "Pending", "qosClass": "Burstable"}
            meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
            return self._keep(key, thing)

    def get(self, group: str, plural: str, namespace: str, name: str) -> Thing:
        """An object as it is; raises `RefusedError` (404)."""
        with self.lock:
            key = (group, plural, "" if plural in CLUSTER_WIDE else namespace, name)
            if key not in self._things:
                raise RefusedError(404, f'{plural}{"." if group else ""}{group} "{name}" not found', name=name)
            return copy.deepcopy(self._things[key])

    def find(self, group: str, plural: str, namespace: str = "", *, labels: str = "", fields: str = "") -> list[Thing]:
        """Objects of a kind, in order of their names; of all namespaces without one."""
        with self.lock:
            return [
                copy.deepcopy(thing)
                for key, thing in sorted(self._things.items())
                if key[:2] == (group, plural)
                and (not namespace or key[2] == namespace)
                and _selected(thing["metadata"].get("labels", {}), labels)
                and all(
                    _field(thing, term.partition("=")[0]) == term.partition("=")[2]
                    for term in fields.split(",")
                    if term
                )
            ]

    def replace(self, thing: Thing, *, status: bool = False) -> Thing:
        """Puts an object in the place of one that is there: its status alone, or all but its status."""
        plural, group, meta = plural_of(thing["kind"]), _group(thing["apiVersion"]), thing["metadata"]
        with self.lock:
            old = self.get(group, plural, meta.get("namespace", ""), meta["name"])
            if meta.get("resourceVersion", old["metadata"]["resourceVersion"]) != old["metadata"]["resourceVersion"]:
                stale = f'"{meta["name"]}" has been modified; apply your changes to the latest version'
                raise RefusedError(409, stale, reason="Conflict", name=meta["name"])
            if status:
                new = {**old, "status": thing.get("status", {})}
            else:
                new = copy.deepcopy({key: value for key, value in thing.items() if key != "status"})
                new |= {"status": old["status"]} if "status" in old else {}
                new["metadata"] |= {key: old["metadata"][key] for key in ("uid", "creationTimestamp")}
                new["metadata"]["generation"] = old["metadata"]["generation"] + (new.get("spec") != old.get("spec"))
            _check(new)
            return self._keep((group, plural, old["metadata"].get("namespace", ""), meta["name"]), new)

    def patch(self, group: str, plural: str, namespace: str, name: str, patch: Thing, *, status: bool = False) -> Thing:
        """Merges a patch into an object, or into its status."""
        with self.lock:
            new = merged(self.get(group, plural, namespace, name), patch)
            return self.replace(new, status=status)

    def delete(self, group: str, plural: str, namespace: str, name: str, *, grace: int | None = None) -> Thing:
        """Removes an object and what it owns; a pod with a node first ends, within its grace period."""
        with self.lock:
            thing = self.get(group, plural, namespace, name)
            key = (group, plural, thing["metadata"].get("namespace", ""), name)
            for other, owned in list(self._things.items()):
                owners = owned["metadata"].get("ownerReferences", [])
                if any(owner["uid"] == thing["metadata"]["uid"] for owner in owners):
                    with suppress(RefusedError):
                        self.delete(*other)
            running = plural == "pods" and thing.get("status", {}).get("phase") == "Running"
            if running and grace != 0:
                if "deletionTimestamp" not in thing["metadata"]:
                    seconds = thing["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
                    thing["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": seconds}
                    self._keep(key, thing)
                return thing
            del self._things[key]
            self.changed.notify_all()
            return thing

    def _keep(self, key: tuple[str, str, str, str], thing: Thing) -> Thing:
        self._version += 1
        thing["metadata"]["resourceVersion"] = str(self._version)
        self._things[key] = thing
        self.changed.notify_all()
        return copy.deepcopy(thing)

    def answer(self, method: str, target: str, body: Any, content_type: str) -> Thing | Iterator[bytes]:
        """What a request gets; raises `RefusedError`."""
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if url.path == "/version":
            return {"major": "1", "minor": VERSIONS[-1].partition(".")[2], "gitVersion": f"v{VERSIONS[-1]}.0"}
        group, version, namespace, plural, name, sub = _address(url.path)
        if sub == "log":
            self.get(group, plural, namespace, name)
            if self.logs is None:
                raise RefusedError(400, f'container in pod "{name}" is waiting to start: PodInitializing')
            return self.logs.log(namespace, name, query)  # type: ignore[no-any-return]
        if method == "GET" and name:
            return self.get(group, plural, namespace, name)
        if method == "GET":
            selectors = {"labels": query.get("labelSelector", ""), "fields": query.get("fieldSelector", "")}
            items = self.find(group, plural, namespace, **selectors)
            return {"apiVersion": f"{group}/{version}".lstrip("/"), "kind": "List",
                    "metadata": {"resourceVersion": str(self._version)}, "items": items}  # fmt: skip
        if method == "POST":
            if not isinstance(body, dict) or plural_of(body.get("kind", "")) != plural:
                raise RefusedError(400, f"the body is no {plural}")
            return self.create(body, namespace=namespace, dry_run=query.get("dryRun") == "All")
        if method == "PUT":
            return self.replace(body, status=sub == "status")
        if method == "PATCH":
            if content_type == "application/json-patch+json" or not isinstance(body, dict):
                raise RefusedError(415, f"{content_type}: only merge patches are taken")
            if content_type.startswith("application/strategic") and group.count("."):
                raise RefusedError(
                    415,
                    "a strategic merge patch is not for custom resources",
                )
            return self.patch(group, plural, namespace, name, body, status=sub == "status")
        if method == "DELETE":
            grace = (body or {}).get("gracePeriodSeconds") if isinstance(body, dict) else None
            return self.delete(group, plural, namespace, name, grace=grace)
        raise RefusedError(405, f"{method}: no such verb")


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]


def _check(thing: Thing) -> None:
    """Refuses what the schemas of the newest minor version refuse."""
    try:
        found = problems({key: value for key, value in thing.items() if key != "status"}, VERSIONS[-1])
    except UnknownKindError:
        raise RefusedError(404, "the server could not find the requested resource") from None
    if found:
        name = thing["metadata"].get("name", "")
        raise RefusedError(422, f'{thing["kind"]} "{name}" is invalid: {"; ".join(found)}', name=name)


def _field(thing: Any, path: str) -> Any:
    """The value at a path such as `involvedObject.name`."""
    for name in path.split("."):
        thing = thing.get(name, {})
    return thing


def _selected(values: dict[str, str], selector: str) -> bool:
    """Whether labels fit a selector of equalities: `a=b,c!=d,e`."""
    for term in filter(None, selector.split(",")):
        if "!=" in term:
            key, _, value = term.partition("!=")
            fits = values.get(key) != value
        elif "=" in term:
            key, _, value = term.partition("=")
            fits = values.get(key.rstrip("=")) == value.lstrip("=")
        else:
            fits = term in values
        if not fits:
            return False
    return True


def _address(path: str) -> tuple[str, str, str, str, str, str]:
    """Group, version, namespace, plural, name and subresource of a path."""
    parts = path.strip("/").split("/")
    group = ""
    if parts[0] == "apis" and len(parts) > 3:
        group, parts = parts[1], parts[1:]
    elif parts[0] != "api" or len(parts) < 3:
        raise RefusedError(404, "the server could not find the requested resource")
    version, rest, namespace = parts[1], parts[2:], ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    plural, name, sub = [*rest, "", ""][:3]
    return group, version, namespace, plural, name, sub


def _handler(api: KubeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            api.requests.append(f"{self.command} {urlsplit(self.path).path}")
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            code, answer = 200, None
            try:
                answer = api.answer(self.command, self.path, body, self.headers.get("Content-Type", ""))
                code = 201 if self.command == "POST" else 200
            except RefusedError as refused:
                code, answer = refused.code, refused.status()
            with suppress(BrokenPipeError, ConnectionResetError):
                if isinstance(answer, dict):
                    data = json.dumps(answer).encode()
                    self._head(code, "application/json", ("Content-Length", str(len(data))))
                    self.wfile.write(data)
                    return
                self._head(code, "text/plain", ("Transfer-Encoding", "chunked"))
                for sent, piece in enumerate(answer, start=1):
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    self.wfile.flush()
                    if sent == api.cut_streams_after:
                        self.close_connection = True
                        return
                self.wfile.write(b"0\r\n\r\n")

        def _head(self, code: int, content_type: str, header: tuple[str, str]) -> None:
            self.send_response(code)
            self.send_header("Content-Type", content_type)
            self.send_header(*header)
            self.end_headers()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    return Handler

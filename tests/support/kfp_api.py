"""The API of Kubeflow Pipelines, v2beta1, over HTTP, as far as a client that submits, follows and schedules needs it.

Uploads are parsed as pipeline specs, arguments are checked against the inputs that a spec declares, names are taken
once, unknown things are 404, a wrong token is 401. Runs advance by one tick each time they are looked at (`kfp_dag`).

    with kfp_api() as api:
        api.failures["train"] = ["out of memory"]
        ... kfp.Client(host=api.url)
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from kfp_dag import OVER, Task, advance, now, tasks_of

BASE = "/apis/v2beta1"
_KINDS = {"STRING": (str,), "NUMBER_INTEGER": (int,), "NUMBER_DOUBLE": (int, float), "BOOLEAN": (bool,)}


class RefusedError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Run:
    """A run, and its tasks."""

    body: dict[str, Any]
    tasks: list[Task]


@dataclass
class KfpApi:
    """What the API holds."""

    token: str = ""
    """Bearer token that every request needs; empty asks for none."""
    multi_user: bool = False
    iterations: int = 2
    """Of each loop."""
    gate: bool = True
    """Whether conditions are met."""
    failures: dict[str, list[str]] = field(default_factory=dict)
    """What tasks will fail with, by their names; each attempt takes one."""
    url: str = ""
    requests: list[str] = field(default_factory=list)
    """Method and path of each."""
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    # What is asked for: (method, path) to a function of path parts, query and body.

    def healthz(self, _query: dict[str, str], _body: Any) -> dict[str, Any]:
        return {"multi_user": self.multi_user}

    def create_experiment(self, _query: dict[str, str], body: Any) -> dict[str, Any]:
        taken(self.experiments, body["display_name"], body.get("namespace", ""))
        return put(self.experiments, "experiment_id", body)

    def list_experiments(self, query: dict[str, str], _body: Any) -> dict[str, Any]:
        return {"experiments": listed(self.experiments, query)}

    def list_pipelines(self, query: dict[str, str], _body: Any) -> dict[str, Any]:
        return {"pipelines": listed(self.pipelines, query)}

    def upload_pipeline(self, query: dict[str, str], body: Any) -> dict[str, Any]:
        spec = parsed(body)
        taken(self.pipelines, query["name"], query.get("namespace", ""))
        made = put(
            self.pipelines, "pipeline_id", {"display_name": query["name"], "namespace": query.get("namespace", "")}
        )
        self._add_version(made["pipeline_id"], query["name"], spec)
        return made

    def upload_version(self, query: dict[str, str], body: Any) -> dict[str, Any]:
        known(self.pipelines, query["pipelineid"], "Pipeline")
        return self._add_version(query["pipelineid"], query["name"], parsed(body))

    def _add_version(self, pipeline: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        own = {key: row for key, row in self.versions.items() if row["pipeline_id"] == pipeline}
        taken(own, name, "")
        return put(
            self.versions,
            "pipeline_version_id",
            {"pipeline_id": pipeline, "display_name": name, "pipeline_spec": spec},
        )

    def list_versions(self, query: dict[str, str], _body: Any, pipeline: str) -> dict[str, Any]:
        known(self.pipelines, pipeline, "Pipeline")
        own = {key: row for key, row in self.versions.items() if row["pipeline_id"] == pipeline}
        return {"pipeline_versions": listed(own, query)}

    def create_run(self, _query: dict[str, str], body: Any) -> dict[str, Any]:
        spec = self._spec_of(body)
        run = put({}, "run_id", {**body, "state": "PENDING"})
        self.runs[run["run_id"]] = Run(body=run, tasks=tasks_of(spec["pipeline_spec"], self.iterations))
        return run

    def _spec_of(self, body: dict[str, Any]) -> dict[str, Any]:
        """The spec that a run or schedule names, after checking the arguments against it."""
        known(self.experiments, body.get("experiment_id", ""), "Experiment")
        reference = body.get("pipeline_version_reference") or {}
        version = known(self.versions, reference.get("pipeline_version_id", ""), "PipelineVersion")
        if version["pipeline_id"] != reference.get("pipeline_id"):
            raise RefusedError(400, "the version is of another pipeline")
        spec: dict[str, Any] = version["pipeline_spec"]
        declared = spec["pipeline_spec"]["root"].get("inputDefinitions", {}).get("parameters", {})
        given = (body.get("runtime_config") or {}).get("parameters") or {}
        if unknown := sorted(set(given) - set(declared)):
            raise RefusedError(400, f"unknown input parameters: {', '.join(unknown)}")
        for name, row in declared.items():
            if name not in given and not row.get("isOptional"):
                raise RefusedError(400, f"input parameter {name} requires value")
            if name in given and type(given[name]) not in _KINDS.get(row["parameterType"], (type(given[name]),)):
                raise RefusedError(400, f"input parameter {name} requires type {row['parameterType']}")
        return spec

    def list_runs(self, query: dict[str, str], _body: Any) -> dict[str, Any]:
        rows = listed({key: run.body for key, run in self.runs.items()}, query)
        if query.get("sort_by") == "created_at desc":
            rows.reverse()
        return {"runs": rows[: int(query.get("page_size") or 10)]}

    def get_run(self, _query: dict[str, str], _body: Any, name: str) -> dict[str, Any]:
        run = known(self.runs, name, "Run")
        if run.body["state"] == "CANCELING":
            for task in run.tasks:
                if task.state not in OVER:
                    task.go("CANCELED")
            run.body["state"] = "CANCELED"
        elif run.body["state"] not in OVER:
            run.body["state"] = advance(run.tasks, failures=self.failures, gate=self.gate)
        details = [task.to_json(name) for task in run.tasks if task.state != "PENDING"]
        # A real run lists its drivers and its root beside the steps.
        drivers = [{**row, "display_name": f"{row['display_name']}-driver"} for row in details]
        root = {"run_id": name, "task_id": "root", "display_name": "root", "state": run.body["state"]}
        return {**run.body, "run_details": {"task_details": [root, *drivers, *details]}}

    def terminate(self, _query: dict[str, str], _body: Any, name: str) -> dict[str, Any]:
        run = known(self.runs, name, "Run")
        if run.body["state"] in OVER:
            raise RefusedError(400, f"run {name} has ended and cannot be terminated")
        run.body["state"] = "CANCELING"
        return {}

    def retry(self, _query: dict[str, str], _body: Any, name: str) -> dict[str, Any]:
        run = known(self.runs, name, "Run")
        if run.body["state"] not in ("FAILED", "CANCELED"):
            raise RefusedError(400, f"run {name} has not failed and cannot be retried")
        for task in run.tasks:
            if task.state in ("FAILED", "CANCELED") or task.is_exit:
                task.state, task.start, task.end, task.error = "PENDING", None, None, ""
        run.body["state"] = "RUNNING"
        return {}

    def create_schedule(self, _query: dict[str, str], body: Any) -> dict[str, Any]:
        self._spec_of(body)
        trigger = body.get("trigger") or {}
        cron = (trigger.get("cron_schedule") or {}).get("cron", "")
        every = (trigger.get("periodic_schedule") or {}).get("interval_second", 0)
        if bool(cron) == bool(every) or (cron and len(cron.split()) != 6):
            raise RefusedError(400, "a trigger is a cron schedule of six fields, or a periodic one")
        if not 1 <= int(body.get("max_concurrency") or 0) <= 10:
            raise RefusedError(400, "max_concurrency must be 1 to 10")
        status = "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED"
        body = {**body, "max_concurrency": str(body["max_concurrency"]), "status": status}
        return put(self.schedules, "recurring_run_id", body)

    def list_schedules(self, query: dict[str, str], _body: Any) -> dict[str, Any]:
        rows = listed(self.schedules, query)
        start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 10)
        page = {"recurringRuns": rows[start : start + size]}
        return {**page, "next_page_token": str(start + size)} if start + size < len(rows) else page

    def delete_schedule(self, _query: dict[str, str], _body: Any, name: str) -> dict[str, Any]:
        known(self.schedules, name, "RecurringRun")
        del self.schedules[name]
        return {}

    def switch_schedule(self, _query: dict[str, str], _body: Any, name: str, verb: str) -> dict[str, Any]:
        known(self.schedules, name, "RecurringRun")["status"] = f"{verb.upper()}D"
        return {}

    def fire(self, name: str) -> str | None:
        """The time of a schedule has come; the run that it starts, if it may start one."""
        schedule = known(self.schedules, name, "RecurringRun")
        alive = [
            run
            for run in self.runs.values()
            if run.body.get("recurring_run_id") == name and run.body["state"] not in OVER
        ]
        if schedule["status"] != "ENABLED" or len(alive) >= int(schedule["max_concurrency"]):
            return None
        kept = ("experiment_id", "pipeline_version_reference", "runtime_config", "display_name")
        body = {key: schedule[key] for key in kept}
        return str(self.create_run({}, {**body, "recurring_run_id": name})["run_id"])


ROUTES = [
    ("GET", r"/healthz", KfpApi.healthz),
    ("POST", r"/experiments", KfpApi.create_experiment),
    ("GET", r"/experiments", KfpApi.list_experiments),
    ("GET", r"/pipelines", KfpApi.list_pipelines),
    ("POST", r"/pipelines/upload", KfpApi.upload_pipeline),
    ("POST", r"/pipelines/upload_version", KfpApi.upload_version),
    ("GET", r"/pipelines/([\w-]+)/versions", KfpApi.list_versions),
    ("POST", r"/runs", KfpApi.create_run),
    ("GET", r"/runs", KfpApi.list_runs),
    ("GET", r"/runs/([\w-]+)", KfpApi.get_run),
    ("POST", r"/runs/([\w-]+):terminate", KfpApi.terminate),
    ("POST", r"/runs/([\w-]+):retry", KfpApi.retry),
    ("POST", r"/recurringruns", KfpApi.create_schedule),
    ("GET", r"/recurringruns", KfpApi.list_schedules),
    ("DELETE", r"/recurringruns/([\w-]+)", KfpApi.delete_schedule),
    ("POST", r"/recurringruns/([\w-]+):(enable|disable)", KfpApi.switch_schedule),
]


def put(table: dict[str, Any], key: str, body: dict[str, Any]) -> dict[str, Any]:
    """Adds a row under a new id."""
    row = {**body, key: str(uuid.uuid4()), "created_at": now()}
    table[row[key]] = row
    return row


def known(table: dict[str, Any], name: str, what: str) -> Any:
    """A row that is there."""
    if name not in table:
        raise RefusedError(404, f"{what} {name} not found")
    return table[name]


def taken(table: dict[str, dict[str, Any]], name: str, namespace: str) -> None:
    """Refuses a name that is there already."""
    if any(row["display_name"] == name and row.get("namespace", "") == namespace for row in table.values()):
        raise RefusedError(409, f"{name} already exists")


def listed(table: dict[str, dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    """Rows that a filter lets through, in the order in which they were made."""
    predicates = json.loads(unquote(query.get("filter") or "{}")).get("predicates", [])
    for row in predicates:
        if row["operation"] not in ("EQUALS", 1):
            raise RefusedError(400, f"operation {row['operation']} is not known here")
    return [row for row in table.values() if all(row.get(each["key"]) == each["stringValue"] for each in predicates)]


def parsed(upload: bytes) -> dict[str, Any]:
    """A pipeline file as pipeline spec and platform spec, each read by its protobuf message."""
    try:
        documents = list(yaml.load_all(upload, yaml.CSafeLoader))
        json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
        platform = documents[1] if len(documents) > 1 else {}
        json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    except (yaml.YAMLError, json_format.ParseError, IndexError, TypeError) as error:
        raise RefusedError(400, f"the file is no pipeline: {error}") from None
    return {"pipeline_spec": documents[0], "platform_spec": platform}


def handler_of(api: KfpApi) -> type[BaseHTTPRequestHandler]:
    """A handler that answers from `api`."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_words: object) -> None:
            return

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            with api.lock:
                api.requests.append(f"{self.command} {parts.path.removeprefix(BASE)}")
                try:
                    self.reply(200, self.found(parts.path, query, body))
                except RefusedError as refused:
                    self.reply(refused.status, {"error": str(refused), "code": 0, "message": str(refused)})

        def found(self, path: str, query: dict[str, str], body: bytes) -> dict[str, Any]:
            if api.token and self.headers.get("Authorization") != f"Bearer {api.token}":
                raise RefusedError(401, "Request header error: there is no valid token")
            for method, pattern, function in ROUTES:
                match = re.fullmatch(BASE + pattern, path)
                if match and method == self.command:
                    return function(api, query, self.content(body), *match.groups())
            raise RefusedError(404, f"{self.command} {path}: Not Found")

        def content(self, body: bytes) -> Any:
            kind = self.headers.get("Content-Type", "")
            if not kind.startswith("multipart/form-data"):
                return json.loads(body) if body else None
            message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
            return next(part.get_payload(decode=True) for part in message.iter_parts())

        def reply(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815

    return Handler


@contextmanager
def kfp_api(**options: Any) -> Iterator[KfpApi]:
    """The API at a free port of this machine, until the block ends."""
    api = KfpApi(**options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(api))
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

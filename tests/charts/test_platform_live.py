"""The platform as it is rendered, run here: a real PostgreSQL, SeaweedFS and MLflow with users, and the charts' jobs.

Each process has the command, the environment, the secrets and the files of its container. What differs from a pod:
addresses and ports are of this machine, programs are of this environment and not of an image, and PostgreSQL's image is
not there, so that its data folder is made here with the settings that its entry point would take from the environment.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chart_rendering import ci_file, only, render
from ports import free_port
from rendered_processes import PATH, Machine, container_of

from csm_components.settings import Settings
from csm_components.storage import open_storage
from csm_model.errors import InputError

TENANTS: list[dict[str, Any]] = [
    {"name": "research", "storage": "s3://csm/research", "experiment": "research", "checkpointDays": 30},
    {"name": "product", "storage": "s3://csm/product", "experiment": "product"},
]
SECRETS = {
    "csm-mlflow-admin": {"username": "admin", "password": "administrator-of-tests", "secretKey": "signs-forms"},
    "csm-postgresql": {"password": "p@ss/word:of%tests"},  # nothing of it may be read as part of an address
    "csm-s3-admin": {"CSM_S3_ACCESS_KEY": "admin", "CSM_S3_SECRET_KEY": "secret-of-admin"},
    "csm-s3-mlflow": {"CSM_S3_ACCESS_KEY": "mlflow", "CSM_S3_SECRET_KEY": "secret-of-mlflow"},
    **{
        f"csm-s3-{tenant['name']}": {
            "CSM_S3_ACCESS_KEY": tenant["name"],
            "CSM_S3_SECRET_KEY": f"secret-of-{tenant['name']}",
        }
        for tenant in TENANTS
    },
    **{
        f"csm-mlflow-{tenant['name']}": {
            "MLFLOW_TRACKING_USERNAME": tenant["name"],
            "MLFLOW_TRACKING_PASSWORD": f"password-of-{tenant['name']}",
        }
        for tenant in TENANTS
    },
}
RELEASE = {"release": "csm-platform", "namespace": "csm-platform"}


@dataclass(frozen=True)
class Platform:
    """What runs, and where."""

    machine: Machine
    mlflow: str
    s3: str
    filer_port: int
    s3_port: int
    hosts: list[str]
    migrations: list[str]
    prepare: dict[str, Any]
    prepared: str

    def settings(self, name: str) -> Settings:
        """What reaches the S3 store with the keys of an identity."""
        keys = SECRETS[f"csm-s3-{name}"]
        return Settings(
            s3_endpoint=self.s3, s3_access_key=keys["CSM_S3_ACCESS_KEY"], s3_secret_key=keys["CSM_S3_SECRET_KEY"]
        )

    def ask(
        self, path: str, *, user: tuple[str, str] | None = None, host: str | None = None, body: Any = None
    ) -> tuple[int, str]:
        """Status and text of one request to MLflow."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.mlflow}{path}", data=data)
        request.add_header("Content-Type", "application/json")
        if host is not None:
            request.add_header("Host", host)
        if user is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(':'.join(user).encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


def login(name: str) -> tuple[str, str]:
    return name, SECRETS[f"csm-mlflow-{name}"]["MLFLOW_TRACKING_PASSWORD"]


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def postgresql_programs() -> Path:
    """The folder of PostgreSQL's programs; Debian keeps it off PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    found = shutil.which("initdb")
    if found:
        folders.append(Path(found).resolve().parent)
    if not folders:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return folders[-1]


def start_postgresql(machine: Machine, things: list[dict[str, Any]], port: int) -> None:
    """A server whose data folder is made as the image's entry point would: user, database, password, initdb's words."""
    programs = postgresql_programs()
    workload, container = container_of(things, "StatefulSet", "csm-platform-postgresql", "postgresql")
    machine.mount(workload, container, things)
    env = machine.environment(container)
    data = Path(env["PGDATA"])
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to be root
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        owner = pwd.getpwnam("postgres")
        for path in (machine.home, *machine.home.rglob("*")):
            path.chmod(path.stat().st_mode | 0o755)
        for path in (data.parent, Path(machine.places["/var/run/postgresql"])):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    initdb = [programs / "initdb", "--pgdata", data, "--username", env["POSTGRES_USER"], "--auth-local=trust"]
    words = [*initdb, "--pwfile", env["POSTGRES_PASSWORD_FILE"], *env["POSTGRES_INITDB_ARGS"].split()]
    subprocess.run([*as_user, *map(str, words)], env=env, cwd="/", check=True, capture_output=True)
    run = machine.places["/var/run/postgresql"]
    serve = [programs / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", run, "-F"]
    machine.start("postgresql", [*as_user, *map(str, serve)], env=env, cwd=Path("/"))
    probe = [str(programs / container["readinessProbe"]["exec"]["command"][0])]
    probe += [*container["readinessProbe"]["exec"]["command"][1:], f"--port={port}"]
    machine.wait_until(lambda: subprocess.run(probe, capture_output=True, check=False).returncode == 0, "PostgreSQL")
    create = [programs / "createdb", "-h", run, "-p", str(port), "-U", env["POSTGRES_USER"], env["POSTGRES_DB"]]
    subprocess.run([*as_user, *map(str, create)], env=env, cwd="/", check=True, capture_output=True)


def start_seaweedfs(machine: Machine, things: list[dict[str, Any]], s3_port: int, filer_port: int) -> None:
    workload, identities = container_of(things, "StatefulSet", "csm-platform-s3", "identities")
    machine.mount(workload, identities, things)
    machine.run(identities)
    workload, container = container_of(things, "StatefulSet", "csm-platform-s3", "seaweedfs")
    machine.mount(workload, container, things)
    machine.places["-s3.port=8333"] = f"-s3.port={s3_port}"
    machine.places["-metricsPort=9327"] = f"-metricsPort={free_port()}"
    more = (f"-filer.port={filer_port}", f"-master.port={free_port()}", f"-volume.port={free_port()}")
    command = machine.command(container, *more)
    folder = Path(machine.place(container["workingDir"]))
    machine.start("seaweedfs", command, env=machine.environment(container), cwd=folder)
    probe = f"http://127.0.0.1:{s3_port}{container['readinessProbe']['httpGet']['path']}"
    machine.wait_until(lambda: answers(probe), "SeaweedFS")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def buckets_are_made(machine: Machine, things: list[dict[str, Any]]) -> bool:
    """The job is started again until it ends well, as Kubernetes does: the gateway answers before it can store."""
    workload, job = container_of(things, "Job", "csm-platform-buckets", "buckets")
    machine.mount(workload, job, things)
    try:
        machine.run(job)
    except AssertionError:
        return False
    return True


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A folder that others than its owner may enter, unlike pytest's, for PostgreSQL has a user of its own."""
    with tempfile.TemporaryDirectory(prefix="csm-platform-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def platform(home: Path) -> Iterator[Platform]:
    postgresql_programs()
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("Flask-WTF is not installed, which MLflow's users need: pip install 'mlflow[auth]'")
    ports = {name: free_port() for name in ("mlflow", "postgresql", "s3", "filer")}
    things = render(
        "csm-platform",
        ci_file("csm-platform", "everything-here"),
        set={
            "mlflow.port": ports["mlflow"],
            "mlflow.workers": 1,
            "seaweedfs.volumeSizeLimitMB": 64,
            "tenants": TENANTS,
        },
        **RELEASE,
    )
    training = render(
        "csm-training",
        ci_file("csm-training", "volcano"),
        set={"tenants": [{**tenant, "quota": {"cpu": 1, "memory": "1Gi"}} for tenant in TENANTS]},
        release="csm-training",
        namespace="csm-tenants",
    )
    s3, mlflow = f"127.0.0.1:{ports['s3']}", f"localhost:{ports['mlflow']}"
    places = {
        "csm-platform-postgresql.csm-platform.svc:5432": f"127.0.0.1:{ports['postgresql']}",
        "http://csm-platform-s3.csm-platform.svc:8333": f"http://{s3}",
        "http://csm-platform-mlflow.csm-platform.svc:5000": f"http://{mlflow}",
        "--host=0.0.0.0": "--host=127.0.0.1",
    }
    machine = Machine(home, secrets=SECRETS, places=places)
    try:
        start_postgresql(machine, things, ports["postgresql"])
        start_seaweedfs(machine, things, ports["s3"], ports["filer"])
        workload, migrate = container_of(things, "Deployment", "csm-platform-mlflow", "migrate")
        machine.mount(workload, migrate, things)
        migrations = machine.run_together(migrate, times=2)
        workload, server = container_of(things, "Deployment", "csm-platform-mlflow", "mlflow")
        machine.mount(workload, server, things)
        machine.start("mlflow", machine.command(server), env=machine.environment(server))
        machine.wait_until(lambda: buckets_are_made(machine, things), "the buckets")
        machine.wait_until(lambda: answers(f"http://{mlflow}{server['readinessProbe']['httpGet']['path']}"), "MLflow")
        workload, prepare = container_of(training, "Job", "csm-training-prepare", "prepare")
        machine.mount(workload, prepare, training)
        (hosts,) = [word for word in server["command"] if word.startswith("--allowed-hosts=")]
        yield Platform(
            machine=machine,
            mlflow=f"http://{mlflow}",
            s3=f"http://{s3}",
            filer_port=ports["filer"],
            s3_port=ports["s3"],
            hosts=hosts.removeprefix("--allowed-hosts=").split(","),
            migrations=migrations,
            prepare=prepare,
            prepared=machine.run(prepare),
        )
    finally:
        machine.stop()


CLIENT = """
import sys, tempfile, pathlib, mlflow
experiment = mlflow.set_experiment(sys.argv[1])
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.5)
    mlflow.log_text("spoken " * 1000, "report/words.txt")
found = mlflow.MlflowClient().get_run(run.info.run_id)
assert found.data.metrics == {"loss": 0.5}, found.data.metrics
assert found.info.artifact_uri.startswith("mlflow-artifacts:/"), found.info.artifact_uri
with tempfile.TemporaryDirectory() as folder:
    path = mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/report/words.txt", dst_path=folder)
    assert pathlib.Path(path).read_text() == "spoken " * 1000
print(experiment.experiment_id, run.info.run_id)
"""


def log_a_run(platform: Platform, tenant: str, experiment: str) -> tuple[str, str]:
    """A client with a user and a password, and no keys of the store: ids of its experiment and run."""
    env = {
        "PATH": PATH,
        "HOME": str(platform.machine.home),
        "MLFLOW_TRACKING_URI": platform.mlflow,
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        **SECRETS[f"csm-mlflow-{tenant}"],
    }
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, experiment], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    experiment_id, run_id = done.stdout.splitlines()[-1].split()
    return experiment_id, run_id


def test_migrations_that_start_together_end_well_one_after_the_other(platform: Platform) -> None:
    made = [text.count("Creating initial MLflow database tables") for text in platform.migrations]
    assert sorted(made) == [0, 1]


def test_a_client_without_keys_logs_a_run_and_reads_its_file_back(platform: Platform) -> None:
    experiment, run = log_a_run(platform, "research", "research")
    stored = open_storage("s3://mlflow/artifacts", platform.settings("mlflow")).list(experiment)
    assert stored == [f"{experiment}/{run}/artifacts/report/words.txt"]


def test_a_tenant_neither_reads_nor_writes_anothers_experiment(platform: Platform) -> None:
    by_name = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=research"
    status, answer = platform.ask(by_name, user=login("research"))
    assert status == 200
    identity = json.loads(answer)["experiment"]["experiment_id"]
    assert platform.ask(f"/api/2.0/mlflow/experiments/get?experiment_id={identity}", user=login("product"))[0] == 403
    run = {"experiment_id": identity, "start_time": 1}
    assert platform.ask("/api/2.0/mlflow/runs/create", user=login("product"), body=run)[0] == 403
    assert platform.ask("/api/2.0/mlflow/runs/create", user=login("research"), body=run)[0] == 200


def test_nobody_comes_in_without_a_password(platform: Platform) -> None:
    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert platform.ask(search)[0] == 401
    assert platform.ask(search, user=("research", "guessed"))[0] == 401
    assert platform.ask(search, user=("admin", SECRETS["csm-mlflow-admin"]["password"]))[0] == 200


def test_every_name_of_the_service_is_answered_and_no_other(platform: Platform) -> None:
    """Probes ask /health, which is not checked: ready pods do not mean that clients are let in."""
    port = platform.mlflow.rpartition(":")[2]
    wanted = [
        name + end
        for name in ("csm-platform-mlflow", "csm-platform-mlflow.csm-platform", "csm-platform-mlflow.csm-platform.svc")
        for end in ("", f":{port}")
    ]
    wanted += [f"csm-platform-mlflow.csm-platform.svc.cluster.local:{port}"]
    wanted += [f"localhost:{port}", "mlflow.internal:8080"]
    assert set(wanted) <= set(platform.hosts)
    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    for host in platform.hosts:
        assert platform.ask(search, user=login("research"), host=host)[0] == 200, host
    for host in ("evil.example.com", f"csm-platform-mlflow.csm-platform.svc:{int(port) + 1}", "mlflow.internal"):
        assert platform.ask(search, user=login("research"), host=host)[0] == 403, host
        assert platform.ask("/health", host=host)[0] == 200


def test_keys_of_a_tenant_reach_its_own_place_and_nothing_else(platform: Platform, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("sound")
    own = open_storage("s3://csm/research", platform.settings("research"))
    own.put_file(file, "checkpoints/1")
    assert own.list("checkpoints/") == ["checkpoints/1"]
    own.get_file("checkpoints/1", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "sound"
    other = open_storage("s3://csm/product", platform.settings("product"))
    other.put_file(file, "secret")
    for place in ("s3://csm/product", "s3://csm/research2", "s3://mlflow/artifacts"):
        foreign = open_storage(place, platform.settings("research"))
        with pytest.raises(InputError, match="AccessDenied"):
            foreign.put_file(file, "x")
        with pytest.raises(InputError, match="AccessDenied"):
            foreign.list("")
    with pytest.raises(InputError, match="AccessDenied"):
        open_storage("s3://csm/product", platform.settings("research")).get_file("secret", tmp_path / "stolen")
    with pytest.raises(InputError, match="AccessDenied"):
        open_storage("s3://csm/research", platform.settings("mlflow")).list("")


def test_only_the_gateway_that_knows_keys_listens_beyond_loopback(platform: Platform) -> None:
    assert listens(platform.s3_port, "127.0.0.2")
    assert listens(platform.filer_port)
    assert not listens(platform.filer_port, "127.0.0.2")


def test_preparing_makes_what_is_missing_and_leaves_the_rest(platform: Platform) -> None:
    assert platform.prepared.splitlines() == [
        "research: user research: made",
        "research: experiment research: made, of user research",
        "product: user product: made",
        "product: experiment product: made, of user product",
    ]
    assert platform.machine.run(platform.prepare) == ""


def test_a_password_that_was_changed_is_set_back_to_its_secret(platform: Platform) -> None:
    admin = ("admin", SECRETS["csm-mlflow-admin"]["password"])
    request = urllib.request.Request(
        f"{platform.mlflow}/api/2.0/mlflow/users/update-password",
        data=json.dumps({"username": "product", "password": "something-else-altogether"}).encode(),
        method="PATCH",
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Basic {base64.b64encode(':'.join(admin).encode()).decode()}",
        },
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    assert platform.ask("/api/2.0/mlflow/users/current", user=login("product"))[0] == 401
    assert platform.machine.run(platform.prepare) == "product: user product: has the password of its secret again\n"
    assert platform.ask("/api/2.0/mlflow/users/current", user=login("product"))[0] == 200


def test_checkpoints_go_after_a_while_and_other_rules_stay(platform: Platform) -> None:
    from csm_components.buckets import expire

    client = open_storage("s3://csm/any", platform.settings("admin"))._client  # type: ignore[attr-defined]

    def rules() -> dict[str, int]:
        found = client.get_bucket_lifecycle(bucket_name="csm")
        return {rule.rule_filter.prefix: rule.expiration.days for rule in (found.rules if found else [])}

    assert rules() == {"research/checkpoints/": 30}
    expire("s3://csm/product/checkpoints", 7, platform.settings("admin"))
    assert rules() == {"research/checkpoints/": 30, "product/checkpoints/": 7}
    expire("s3://csm/product/checkpoints", 0, platform.settings("admin"))
    assert rules() == {"research/checkpoints/": 30}
    with pytest.raises(InputError, match="names a whole bucket"):
        expire("s3://csm", 7, platform.settings("admin"))


def test_charts_name_the_same_objects(platform: Platform) -> None:
    """What csm-training calls is what csm-platform makes."""
    things = render("csm-platform", ci_file("csm-platform", "everything-here"), **RELEASE)
    services = {thing["metadata"]["name"] for thing in things if thing["kind"] == "Service"}
    assert {"csm-platform-mlflow", "csm-platform-s3", "csm-platform-pushgateway"} <= services
    assert only(things, "Deployment", component="pushgateway")["spec"]["replicas"] == 1

"""deploy/kubernetes: each object against its schema, objects against each other and against the service, and every
number against docs/capacity.md."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from recommendation_service.bootstrap import create_app
from recommendation_service.core.config import Settings
from recommendation_service.processes.registry import pool_share
from recommendation_service.telemetry.metrics import Metrics
from tests.support.kustomize import Manifest, render

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("base", "production")
# The oldest one that Kubernetes maintains, and the newest one whose schemas the validator has.
VERSIONS = ("1.35", kubernetes_validate.latest_version())
OBJECTS = {overlay: render(FOLDER / overlay) for overlay in OVERLAYS}
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
# What the operator's secret must or may have.
SECRET = {"MYSQL_USER": "recs", "MYSQL_PASSWORD": "x", "ADMIN_TOKEN": "x" * 8}
PRODUCTION_SECRET = {"MYSQL_REPLICA_URLS": "mysql://recs:x@replica-1,mysql://recs:x@replica-2"}

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def found(overlay: str, kind: str, name: str | None = None) -> list[Manifest]:
    return [m for m in OBJECTS[overlay] if m["kind"] == kind and name in {None, m["metadata"]["name"]}]


def one(overlay: str, kind: str, name: str = "recommendation-service") -> Manifest:
    [manifest] = found(overlay, kind, name)
    return manifest


def pod(deployment: Manifest) -> Manifest:
    spec: Manifest = deployment["spec"]["template"]["spec"]
    return spec


def service(deployment: Manifest) -> Manifest:
    [container] = pod(deployment)["containers"]
    return container


def deployments() -> list[tuple[str, Manifest]]:
    return [(overlay, manifest) for overlay in OVERLAYS for manifest in found(overlay, "Deployment")]


def name_of(case: Any) -> str:
    return case if isinstance(case, str) else case["metadata"]["name"]


every_deployment = pytest.mark.parametrize(("overlay", "deployment"), deployments(), ids=name_of)


def labels(manifest: Manifest) -> dict[str, str]:
    given: dict[str, str] = manifest["spec"]["template"]["metadata"]["labels"]
    return given


def selected(overlay: str, selector: dict[str, str]) -> set[str]:
    """Deployments whose pods bear these labels."""
    return {m["metadata"]["name"] for m in found(overlay, "Deployment") if selector.items() <= labels(m).items()}


def settings_of(overlay: str, deployment: Manifest) -> dict[str, str]:
    """What the pods find in their environment, the secret's values invented."""
    values: dict[str, str] = {}
    for source in service(deployment)["envFrom"]:
        if "configMapRef" in source:
            values |= one(overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
        else:
            assert source["secretRef"] == {"name": "recommendation-service"}
    return values | SECRET | (PRODUCTION_SECRET if overlay == "production" else {})


def loaded(overlay: str, deployment: Manifest) -> Settings:
    image = dict(re.findall(r"^(?:ENV |    )(DATA_DIR|GUNICORN_\w+)=(\S+)", DOCKERFILE, re.M))
    given = {name.lower(): value for name, value in (image | settings_of(overlay, deployment)).items()}
    return Settings.model_validate(given)


# The objects by themselves.


@pytest.mark.parametrize("version", VERSIONS)
@every_overlay
def test_every_object_fits_its_schema_strictly(overlay: str, version: str) -> None:
    assert len(OBJECTS[overlay]) >= 12
    for manifest in OBJECTS[overlay]:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.update(replica=3),
        lambda spec: spec["template"]["spec"]["containers"][0].update(imagePullPolicies="Always"),
        lambda spec: spec["template"]["spec"]["containers"][0]["ports"][0].update(containerPort="http"),
        lambda spec: spec.pop("selector"),
    ],
    ids=["unknown field", "unknown field of a container", "wrong type", "missing field"],
)
def test_the_schemas_refuse_what_they_should(change: Any) -> None:
    manifest = copy.deepcopy(one("base", "Deployment"))
    change(manifest["spec"])
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@every_overlay
def test_kubectl_makes_the_same_of_the_kustomization(overlay: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER / overlay)], capture_output=True, text=True, check=True)
    assert done.stderr == ""

    def ordered(manifests: Any) -> list[str]:
        return sorted(json.dumps(manifest, sort_keys=True) for manifest in manifests)

    assert ordered(yaml.safe_load_all(done.stdout)) == ordered(OBJECTS[overlay])


@every_overlay
def test_all_kinds_are_there_once_and_in_one_namespace(overlay: str) -> None:
    identities = [(m["kind"], m["metadata"]["name"]) for m in OBJECTS[overlay]]
    assert len(set(identities)) == len(identities)
    assert {kind for kind, _ in identities} == {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PersistentVolumeClaim",
        "PodDisruptionBudget", "Service", "ServiceAccount",
    }  # fmt: skip
    assert {m["metadata"]["namespace"] for m in OBJECTS[overlay]} == {"recommendations"}


# The objects to each other.


@every_deployment
def test_a_deployment_selects_its_own_pods(overlay: str, deployment: Manifest) -> None:
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert selected(overlay, selector) == {deployment["metadata"]["name"]}
    for spread in pod(deployment).get("topologySpreadConstraints", ()):
        assert spread["labelSelector"]["matchLabels"] == selector


@every_overlay
def test_each_service_leads_to_the_pods_of_its_name(overlay: str) -> None:
    services = found(overlay, "Service")
    assert {m["metadata"]["name"] for m in services} == {m["metadata"]["name"] for m in found(overlay, "Deployment")}
    for manifest in services:
        assert selected(overlay, manifest["spec"]["selector"]) == {manifest["metadata"]["name"]}
        container = service(one(overlay, "Deployment", manifest["metadata"]["name"]))
        assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= {p["name"] for p in container["ports"]}


@every_overlay
def test_the_autoscaler_and_the_budget_are_about_the_serving_pods(overlay: str) -> None:
    target = one(overlay, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    deployment = one(overlay, target["kind"], target["name"])
    assert target["apiVersion"] == deployment["apiVersion"]
    assert "replicas" not in deployment["spec"], "an apply would reset the autoscaler's number"
    budget = one(overlay, "PodDisruptionBudget")["spec"]
    assert selected(overlay, budget["selector"]["matchLabels"]) == {target["name"]}
    assert budget["maxUnavailable"] < one(overlay, "HorizontalPodAutoscaler")["spec"]["minReplicas"]
    builder = one(overlay, "Deployment", "recommendation-builder")["spec"]
    assert (builder["replicas"], builder["strategy"]["type"]) == (1, "Recreate")


@every_deployment
def test_what_a_pod_names_is_there(overlay: str, deployment: Manifest) -> None:
    spec = pod(deployment)
    one(overlay, "ServiceAccount", spec["serviceAccountName"])
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert len(volumes) == len(spec["volumes"])
    mounted = set()
    for container in spec["initContainers"] + spec["containers"]:
        assert container["image"] == "registry.example.com/recommendation-service:0.1.0"
        mounted |= {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == volumes.keys()
    one(overlay, "PersistentVolumeClaim", volumes["catalogs"]["persistentVolumeClaim"]["claimName"])
    ports = {port["name"] for port in service(deployment)["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert service(deployment)[probe]["httpGet"]["port"] in ports


@every_overlay
def test_the_network_policies_open_the_services_port_to_the_serving_pods_and_nothing_else(overlay: str) -> None:
    everybody, clients = one(overlay, "NetworkPolicy"), one(overlay, "NetworkPolicy", "recommendation-service-clients")
    assert selected(overlay, everybody["spec"]["podSelector"]["matchLabels"]) == {
        "recommendation-service",
        "recommendation-builder",
    }
    assert everybody["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert selected(overlay, clients["spec"]["podSelector"]["matchLabels"]) == {"recommendation-service"}
    for policy in (everybody, clients):
        for rule in policy["spec"]["ingress"]:
            assert rule["from"]
            assert [port["port"] for port in rule["ports"]] == [5005]
    opened = {port["port"] for rule in everybody["spec"]["egress"] for port in rule["ports"]}
    assert opened == {53, Settings().mysql_port, Settings.model_fields["redis_port"].default}
    assert all(rule["to"] for rule in everybody["spec"]["egress"])


# The objects and the service.


@every_deployment
def test_every_key_is_a_setting_and_together_they_are_valid(overlay: str, deployment: Manifest) -> None:
    keys = settings_of(overlay, deployment)
    assert {key for key in keys if key.lower() not in Settings.model_fields} == set()
    settings = loaded(overlay, deployment)
    is_builder = deployment["metadata"]["name"] == "recommendation-builder"
    assert settings.catalog_refresher is is_builder


@every_deployment
def test_ports_users_and_folders_are_those_of_the_image(overlay: str, deployment: Manifest) -> None:
    settings = loaded(overlay, deployment)
    [exposed] = re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.M)
    assert settings.gunicorn_bind == f"0.0.0.0:{exposed}"
    assert service(deployment)["ports"] == [{"name": "http", "containerPort": int(exposed)}]
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == exposed
    security = pod(deployment)["securityContext"]
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}\n" in DOCKERFILE
    mounts = {mount["name"]: mount for mount in service(deployment)["volumeMounts"]}
    assert mounts["data"]["mountPath"] == str(settings.data_dir)
    assert mounts["catalogs"]["mountPath"] == str(settings.catalog_dir)
    [kernels] = set(re.findall(r"NUMBA_CACHE_DIR=(\S+)", DOCKERFILE))
    assert mounts["kernels"]["mountPath"] == kernels
    # The copy of what the mount hides.
    [copying] = pod(deployment)["initContainers"]
    assert copying["command"] == ["cp", "-R", f"{kernels}/.", copying["volumeMounts"][0]["mountPath"]]
    assert [mount["name"] for mount in copying["volumeMounts"]] == ["kernels"]


@every_deployment
def test_only_the_builder_writes_catalogs(overlay: str, deployment: Manifest) -> None:
    is_builder = deployment["metadata"]["name"] == "recommendation-builder"
    [mount] = [mount for mount in service(deployment)["volumeMounts"] if mount["name"] == "catalogs"]
    [volume] = [volume for volume in pod(deployment)["volumes"] if volume["name"] == "catalogs"]
    assert mount.get("readOnly", False) is not is_builder
    assert volume["persistentVolumeClaim"].get("readOnly", False) is not is_builder
    assert one(overlay, "PersistentVolumeClaim", "recommendation-catalogs")["spec"]["accessModes"] == ["ReadWriteMany"]


@every_deployment
def test_probes_ask_what_the_service_answers(overlay: str, deployment: Manifest, tmp_path: Path) -> None:
    container = service(deployment)
    paths = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/health", "readinessProbe": "/ready", "livenessProbe": "/health"}
    scraped = deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"]
    app = create_app(Settings(data_dir=tmp_path))
    assert {*paths.values(), scraped} <= {getattr(route, "path", "") for route in app.routes}


@every_deployment
def test_a_pod_has_the_time_to_stop_in_order(overlay: str, deployment: Manifest) -> None:
    pause = 0
    if "lifecycle" in service(deployment):
        program, seconds = service(deployment)["lifecycle"]["preStop"]["exec"]["command"]
        assert program == "sleep"
        pause = int(seconds)
    assert pause > 0 or deployment["metadata"]["name"] == "recommendation-builder"
    graceful = loaded(overlay, deployment).gunicorn_graceful_timeout
    assert pod(deployment)["terminationGracePeriodSeconds"] > pause + graceful


@every_deployment
def test_pods_may_do_nothing_that_they_need_not(overlay: str, deployment: Manifest) -> None:
    spec = pod(deployment)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    for container in spec["initContainers"] + spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for name in ("cpu", "memory"):
            assert container["resources"]["requests"][name]
            assert container["resources"]["limits"][name]
    for volume in spec["volumes"]:
        assert volume["name"] == "catalogs" or volume["emptyDir"]["sizeLimit"], "a full disk is everybody's"


def test_the_autoscalers_metric_is_made_of_one_that_the_service_has() -> None:
    [rule] = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text("utf-8"))["rules"]["custom"]
    [metric] = [
        entry["pods"]["metric"]["name"]
        for entry in one("base", "HorizontalPodAutoscaler")["spec"]["metrics"]
        if entry["type"] == "Pods"
    ]
    assert rule["name"]["as"] == metric
    [series] = re.findall(r"^(\w+)\{", rule["seriesQuery"])
    families = {family.name + "_total": family for family in Metrics().registry.collect() if family.type == "counter"}
    assert series in families
    assert Metrics().requests._labelnames == ("endpoint", "status")
    [endpoints] = re.findall(r'endpoint=~"([\w|]+)"', rule["metricsQuery"])
    assert set(endpoints.split("|")) == {"total", "discover", "flow"}
    assert "<<.LabelMatchers>>" in rule["metricsQuery"]
    assert "by (<<.GroupBy>>)" in rule["metricsQuery"]


# Numbers.


def table(heading: str) -> dict[str, list[str]]:
    """Rows of the table under a heading of docs/capacity.md, by their first cell without back quotes."""
    text = (ROOT / "docs" / "capacity.md").read_text("utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0].strip("`"): row[1:] for row in rows}


def number(text: str) -> float:
    [digits] = re.findall(r"^[\d.,]+", text)
    return float(digits.rstrip(",").replace(",", ""))


FIGURES = {
    name: number(cells[0])
    for heading in ("Measured", "Assumed")
    for name, cells in table(heading).items()
    if re.match(r"[\d.]+$", cells[0])
}
SUMS = table("The sums")
MEBIBYTE = 1 << 20


def said(row: str, overlay: str) -> str:
    return SUMS[row][OVERLAYS.index(overlay)]


def quantity(text: str) -> float:
    """Of Kubernetes: cores, or bytes in MiB."""
    units = {"m": 0.001, "Mi": 1, "Gi": 1024}
    digits, unit = re.fullmatch(r"([\d.]+)(m|Mi|Gi)?", text).groups()  # type: ignore[union-attr]
    return float(digits) * units.get(unit, 1)


class Derived:
    """The sums of docs/capacity.md, from its figures and the pods' settings."""

    def __init__(self, overlay: str) -> None:
        self.serving = one(overlay, "Deployment")
        self.settings = loaded(overlay, self.serving)
        self.builder_settings = loaded(overlay, one(overlay, "Deployment", "recommendation-builder"))
        self.cores = quantity(service(self.serving)["resources"]["requests"]["cpu"])
        self.videos = number(said("videos", overlay))
        self.load = number(said("users an hour", overlay)) * FIGURES["requests_per_user"] / 3600
        self.cost = FIGURES["feed_cpu"]
        if self.videos >= 1_000_000:
            self.cost += FIGURES["feed_inside_million"] - FIGURES["feed_inside"]
        self.busy = self.load * self.cost / 1e6
        use = FIGURES["target_use"] / 100
        self.pods = max(2, math.ceil(self.busy / use / self.cores))
        self.least = max(2, self.pods // 2)
        self.most = max(4, math.floor(self.pods * FIGURES["peak_margin"]))
        self.rate = math.floor(self.cores * use / self.cost * 1e6 / 100) * 100
        self.catalog = self.videos * FIGURES["catalog_per_video"] * 1000 / 1e6
        self.memory = self._rounded(self._service(self.settings))
        building = FIGURES["build_base"] + (self.videos - 2200) * FIGURES["build_per_video"] / 1000
        self.builder_memory = self._rounded(self._service(self.builder_settings) + building)

    def _service(self, settings: Settings) -> float:
        workers = settings.gunicorn_workers or 0
        processes = FIGURES["memory_five_workers"] + (workers - 5) * FIGURES["memory_further_worker"]
        shared = settings.kept_pools_megabytes + FIGURES["memory_flusher"] + 2 * self.catalog
        return processes + workers * settings.cache_l1_megabytes + shared

    @staticmethod
    def _rounded(memory: float) -> int:
        return math.ceil(memory * FIGURES["margin"] / 64) * 64


def test_the_two_measured_figures_of_speed_agree() -> None:
    share_of_wrk = 0.11
    predicted = 2 * (1 - share_of_wrk) / (FIGURES["feed_cpu"] / 1e6)
    assert predicted == pytest.approx(FIGURES["feeds_per_second"], rel=0.02)


@every_overlay
def test_the_page_says_what_its_sums_give(overlay: str) -> None:
    derived = Derived(overlay)
    limits = service(derived.serving)["resources"]["limits"]
    assert {row: said(row, overlay) for row in SUMS if row.strip("-")} == {
        "users an hour": said("users an hour", overlay),
        "videos": said("videos", overlay),
        "L, requests a second": f"{derived.load:,.0f}",
        "C, processor time of a feed": f"{derived.cost:.0f} µs",
        "processors busy": f"{derived.busy:.3g}",
        "workers of a pod": str(derived.settings.gunicorn_workers),
        "processors asked for, and limit": f"{derived.cores:g}, {quantity(limits['cpu']):g}",
        "N, pods of the peak hour": str(derived.pods),
        "autoscaler": f"{derived.least} to {derived.most}",
        "R, requests a second of a pod": f"{derived.rate:,}",
        "M, memory of a pod": f"{derived.memory:,} MiB",
        "memory of the builder": f"{derived.builder_memory:,} MiB",
        "volume of catalogs": said("volume of catalogs", overlay),
        "catalog rebuilt every": f"{derived.builder_settings.catalog_refresh_seconds} s",
        "connections to the primary, at most": said("connections to the primary, at most", overlay),
        "connections to each of 2 replicas, at most": said("connections to each of 2 replicas, at most", overlay),
    }


@every_overlay
def test_the_serving_pods_have_what_the_page_derives(overlay: str) -> None:
    derived, scaler = Derived(overlay), one(overlay, "HorizontalPodAutoscaler")["spec"]
    resources = service(derived.serving)["resources"]
    assert quantity(resources["requests"]["memory"]) == derived.memory
    assert quantity(resources["limits"]["memory"]) == 2 * derived.memory
    assert quantity(resources["limits"]["cpu"]) == derived.settings.gunicorn_workers
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (derived.least, derived.most)
    processors, requests = scaler["metrics"]
    assert processors["resource"]["target"]["averageUtilization"] == FIGURES["target_use"]
    assert requests["pods"]["target"]["averageValue"] == str(derived.rate)


@every_overlay
def test_the_builder_has_what_the_page_derives(overlay: str) -> None:
    derived = Derived(overlay)
    resources = service(one(overlay, "Deployment", "recommendation-builder"))["resources"]
    assert quantity(resources["requests"]["memory"]) == derived.builder_memory
    assert quantity(resources["limits"]["memory"]) == 2 * derived.builder_memory
    # A worker that answers, and the refresher.
    assert quantity(resources["limits"]["cpu"]) == 2
    # A build fits into the time between two, with as much again for its queries and a busy processor.
    seconds = FIGURES["build_seconds_per_video"] * derived.videos
    assert seconds * 1.5 < derived.builder_settings.catalog_refresh_seconds


@every_overlay
def test_the_volumes_hold_what_is_written_to_them(overlay: str) -> None:
    derived = Derived(overlay)
    claim = one(overlay, "PersistentVolumeClaim", "recommendation-catalogs")["spec"]["resources"]["requests"]["storage"]
    versions = derived.settings.catalog_keep + 1  # and the one that is being written
    assert quantity(claim) >= 2 * versions * derived.catalog
    assert f"{quantity(claim) / 1024:g} GiB" == said("volume of catalogs", overlay)
    bounded = derived.settings.event_log_megabytes + derived.settings.seen_megabytes
    for manifest in found(overlay, "Deployment"):
        [data] = [volume for volume in pod(manifest)["volumes"] if volume["name"] == "data"]
        assert quantity(data["emptyDir"]["sizeLimit"]) > bounded
        assert service(manifest)["resources"]["limits"]["ephemeral-storage"] == data["emptyDir"]["sizeLimit"]


@every_overlay
def test_the_database_servers_have_connections_for_the_most_pods(overlay: str) -> None:
    derived = Derived(overlay)
    workers = derived.settings.gunicorn_workers or 0
    reading = derived.most * workers * pool_share(derived.settings, "worker").connections
    writing = derived.most * pool_share(derived.settings, "flusher").connections
    building = derived.builder_settings.mysql_pool_size
    assert pool_share(derived.builder_settings, "refresher").connections <= building
    replicas = settings_of(overlay, derived.serving).get("MYSQL_REPLICA_URLS", "").count("mysql://")
    primary = writing + building + (0 if replicas else reading)
    assert said("connections to the primary, at most", overlay) == str(primary)
    assert primary < FIGURES["alert_connections"]
    if replicas:
        each = math.ceil((reading + building) / replicas)
        assert said(f"connections to each of {replicas} replicas, at most", overlay) == str(each)
        assert each < FIGURES["alert_connections"]

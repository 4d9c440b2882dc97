"""``deploy/kubernetes/values.yaml``: what the chart makes of it is read by Dagster's own launcher, without a cluster.

The chart itself cannot be had from a package index: `helm template` is for who has it. Here its values, under the names
that Dagster's instance has for them, are checked by the instance's schemas, and the job of a run is made of them by
`dagster-k8s`, as it would be handed to Kubernetes.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from dagster._config import process_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator

from tests.support.deployment import DEPLOY, need_packages

need_packages("dagster_k8s")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes" / "values.yaml").read_text(encoding="utf-8"))
    return found


def snake(tree: Any, depth: int) -> Any:
    """The keys of the first levels as Dagster spells them; below them they are Kubernetes' own."""
    if depth == 0 or not isinstance(tree, dict):
        return tree
    return {
        re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key).lower(): snake(below, depth - 1) for key, below in tree.items()
    }


def accepted(schema: Any, config: Any) -> Any:
    """The config with its defaults."""
    result = process_config(schema, config)
    assert result.success, [error.message for error in result.errors or ()]
    return result.value


def launcher(values: dict[str, Any]) -> dict[str, Any]:
    """The config of the run launcher, with what the chart adds by itself."""
    from dagster_k8s import K8sRunLauncher

    own = values["runLauncher"]["config"]["k8sRunLauncher"]
    of_runs = own["runK8sConfig"]
    added = {
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "dagster_home": "/opt/dagster",
    }
    config = {**snake({k: v for k, v in own.items() if k != "runK8sConfig"}, 1), **added}
    config["run_k8s_config"] = snake(of_runs, 1)
    found: dict[str, Any] = accepted(K8sRunLauncher.config_type(), config)
    return found


def test_a_run_is_a_job_with_a_gpu_of_its_own_that_nothing_starts_twice(values: dict[str, Any]) -> None:
    from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

    assert values["runLauncher"]["type"] == "K8sRunLauncher"
    [deployment] = values["dagster-user-deployments"]["deployments"]
    assert deployment["includeConfigInLaunchedRuns"] == {"enabled": True}
    config = launcher(values)
    image = f"{deployment['image']['repository']}:{deployment['image']['tag']}"
    job = construct_dagster_k8s_job(
        DagsterK8sJobConfig(
            job_image=image,
            dagster_home=config["dagster_home"],
            image_pull_policy=config["image_pull_policy"],
            env_secrets=[each["name"] for each in deployment["envSecrets"]],
            env_vars=[f"{each['name']}={each['value']}" for each in deployment["env"]],
        ),
        ["dagster", "api", "execute_run"],
        "run",
        user_defined_k8s_config=UserDefinedDagsterK8sConfig.from_dict(config["run_k8s_config"]),
    ).to_dict()
    assert job["spec"]["backoff_limit"] == 0
    pod = job["spec"]["template"]["spec"]
    assert pod["restart_policy"] == "Never"
    [container] = pod["containers"]
    assert container["image"] == image
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "shm", "mount_path": "/dev/shm"}.items() <= container["volume_mounts"][-1].items()  # noqa: S108
    assert "shm" in {volume["name"] for volume in pod["volumes"]}
    assert pod["node_selector"] == {"nvidia.com/gpu.present": "true"}
    environ = {each["name"]: each["value"] for each in container["env"]}
    # Nothing outlives a pod.
    assert environ["AD_ASSETS__STORE__ROOT"].startswith("s3://")
    assert "ad-assets-s3" in {each["secret_ref"]["name"] for each in container["env_from"] if each["secret_ref"]}


def test_a_word_that_kubernetes_does_not_know_is_told(values: dict[str, Any]) -> None:
    from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

    config = launcher(values)["run_k8s_config"]
    config = {**config, "container_config": {"resorces": {}}}
    with pytest.raises(Exception, match="resorces"):
        construct_dagster_k8s_job(
            DagsterK8sJobConfig(job_image="image", dagster_home="/opt/dagster"),
            [],
            "run",
            user_defined_k8s_config=UserDefinedDagsterK8sConfig.from_dict(config),
        )


def test_the_daemon_takes_its_settings(values: dict[str, Any]) -> None:
    daemon, schema = values["dagsterDaemon"], dagster_instance_config_schema()
    coordinator = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert accepted(QueuedRunCoordinator.config_type(), snake(coordinator, 1))["max_concurrent_runs"] == 4
    monitoring = accepted(schema["run_monitoring"].config_type, snake(daemon["runMonitoring"], 1))
    assert (monitoring["enabled"], monitoring["max_resume_run_attempts"]) == (True, 0)
    retries = snake(daemon["runRetries"], 1)
    assert accepted(schema["run_retries"].config_type, retries)["retry_on_asset_or_op_failure"] is False

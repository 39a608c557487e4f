"""Helios on real nodes, with the manifests of k8s/ as they are."""

from tests.cluster.installed import Installed


def test_hello(helios: Installed) -> None:
    run = helios.run(
        {
            "dagName": "hello",
            "tasks": [
                {
                    "name": "greet",
                    "image": helios.cluster.task_image,
                    "command": ["sh", "-c", "echo hello > greeting"],
                    "outputs": ["greeting"],
                }
            ],
        }
    )
    assert run["status"] == "SUCCEEDED", run

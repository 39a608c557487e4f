"""The main path on a real S3 with presigned URLs: in by one request and by ranges, out by PUT, in parts and as a
folder.
"""

import hashlib
import io
import os
from datetime import timedelta
from typing import Any

import pytest

from agent import download as download_module
from tests.agent.conftest import both_forms


@pytest.fixture
def signed(real_s3: Any, endpoint: Any) -> Any:
    endpoint.make_url = real_s3.sign
    return real_s3


def put(s3: Any, name: str, data: bytes) -> str:
    s3.client.put_object("corpora", name, io.BytesIO(data), len(data))
    return hashlib.sha256(data).hexdigest()


@both_forms
def test_inputs_come_in_and_outputs_go_out(
    signed: Any, endpoint: Any, make_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "RANGED_FROM", 1 << 20)
    monkeypatch.setattr(download_module, "WINDOW", 1 << 20)
    big = os.urandom((5 << 20) + 3)
    digest = put(signed, "big object.bin", big)
    put(signed, "small", b"small\n")
    endpoint.add_input("big", "corpora/big object.bin")
    endpoint.add_input("small", "corpora/small")
    endpoint.add_output("result", "corpora")
    endpoint.add_output("folder", "corpora")
    cold = make_node("cold")
    assert cold.fetch()["causes"] == {"never-here": 2}
    assert cold.read("big") == big
    assert cold.blob(digest).exists()
    (cold.artifacts / "result").write_bytes(b"done\n")
    (cold.artifacts / "folder").mkdir()
    (cold.artifacts / "folder/x").write_bytes(b"x")
    cold.task_ended()
    outcome = cold.publish()
    assert outcome.reason is None
    assert signed.client.get_object("corpora", "runs/r/t/0/pod/result").data == b"done\n"
    assert len(signed.client.get_object("corpora", "runs/r/t/0/pod/folder").data) % 512 == 0
    assert make_node("warm").fetch()["causes"] == {"cached": 2}


def test_a_replaced_object_and_a_missing_one_are_told_apart(signed: Any, endpoint: Any, make_node: Any) -> None:
    put(signed, "moving", b"one")
    endpoint.add_input("moving", "corpora/moving")
    make_node("a").fetch()
    put(signed, "moving", b"two")
    node = make_node("b")
    assert node.fetch()["causes"] == {"changed": 1}
    assert node.read("moving") == b"two"
    signed.client.remove_object("corpora", "moving")
    assert make_node("c").fetch()["error"] == "input 'moving': no object at s3://corpora/moving"


@both_forms
def test_big_outputs_go_up_in_parts(signed: Any, endpoint: Any, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.endpoint import Endpoint, Parts

    data = os.urandom((11 << 20) + 5)
    client, bucket, key = signed.client, "corpora", "runs/r/t/0/pod/big"

    def multipart(self: Endpoint, name: str, size: int) -> Parts:
        upload = client._create_multipart_upload(bucket, key, {})
        query = {"uploadId": upload}
        urls = [
            client.get_presigned_url(
                "PUT", bucket, key, timedelta(hours=1), extra_query_params={**query, "partNumber": str(number)}
            )
            for number in range(1, -(-size // (5 << 20)) + 1)
        ]
        complete = client.get_presigned_url("POST", bucket, key, timedelta(hours=1), extra_query_params=query)
        return Parts(5 << 20, tuple(urls), complete)

    monkeypatch.setattr(Endpoint, "multipart", multipart)
    endpoint.single_put_limit = 5 << 20
    endpoint.outputs = [{"name": "big", "key": f"{bucket}/{key}"}]
    (node.artifacts / "big").write_bytes(data)
    node.task_ended()
    outcome = node.publish()
    assert outcome.reason is None
    assert outcome.outputs[0].sha256 == hashlib.sha256(data).hexdigest()
    assert client.get_object(bucket, key).data == data

"""A stored DAG as users write it."""

import msgspec

from helios.dag import parse_dag
from helios.dag_written import written

FULL = b"""
dagName: full
useCache: false
serviceAccountName: reader
tasks:
  - name: make
    image: alpine:3.20
    command: [sh, -c, "true"]
    outputs: [a.txt]
    retries: {count: 2}
    timeoutSeconds: 30
    memoize: {maxAge: 36h, verify: 0.25}
  - name: use
    image: alpine:3.20
    command: ["true"]
    args: [x]
    memoize: true
    depends_on: [make]
    env: {A: "1", B: {secret: s, key: k}}
    inputs:
      - {fromTask: make, name: a.txt, as: b.txt, mode: copy}
      - {uri: "s3://data/x.csv", verify: always}
    resources: {requests: {cpu: 500m}, limits: {memory: 1Gi}}
    nodeSelector: {disk: ssd}
    tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}]
"""


def test_a_stored_dag_is_read_again_as_the_same_dag() -> None:
    dag = parse_dag(FULL).dag
    assert parse_dag(written(msgspec.json.encode(dag))).dag == dag

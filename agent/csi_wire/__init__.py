"""The messages of CSI and of kubelet's plugin registration: csi.proto and registration.proto with what is generated
from them, by

    python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. agent/csi_wire/*.proto

Nothing here is written by hand but this. They need the package protobuf, and only agent.csi imports them.
"""

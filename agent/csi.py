# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH101, PTH103, PTH108, PTH116, PTH120
"""The node's CSI driver, as kubelet speaks with it: the services Identity and Node of CSI, and Registration of
kubelet's plugins, on two sockets below kubelet's folder.

A thin shell over agent.volumes. Only this module needs grpcio and protobuf.
"""

import contextlib
import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from agent.csi_wire import csi_pb2, registration_pb2
from agent.logs import Log, one_line
from agent.names import escape
from agent.settings import NodeSettings
from agent.version import VERSION
from agent.volume import VolumeFailed, VolumePending
from agent.volume_record import AttributesRefused
from agent.volumes import NotOurs, Volumes

DRIVER = "cache.helios.dev"
ANSWER_SECONDS = 1.0
"""So long before a call's deadline it is answered, that the words arrive."""
PATIENCE_SECONDS = 60.0
"""Of a call that has no deadline."""
CALLS_AT_ONCE = 256
"""More than there are pods on a node: each waiting publication has its own, and no unpublication waits for one."""

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


class Driver:
    """The services over one node's volumes."""

    def __init__(self, settings: NodeSettings, volumes: Volumes, log: Log) -> None:
        self._settings = settings
        self._volumes = volumes
        self._log = log
        self._socket = f"{settings.kubelet_dir}/plugins/{DRIVER}/csi.sock"
        self._registration = f"{settings.kubelet_dir}/plugins_registry/{DRIVER}-reg.sock"
        self._registered: tuple[int, int] | None = None
        """Device and inode of the socket that this process has made there."""
        self._told = "kubelet, which has not registered it yet"

    def serve(self) -> grpc.Server:
        """Listens from now on, until the returned server is stopped. Raises OSError."""
        server = grpc.server(ThreadPoolExecutor(CALLS_AT_ONCE, "csi"))
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "csi.v1.Identity",
                    {
                        "GetPluginInfo": _handler(self._plugin_info, csi_pb2.GetPluginInfoRequest),
                        "GetPluginCapabilities": _handler(
                            self._plugin_capabilities, csi_pb2.GetPluginCapabilitiesRequest
                        ),
                        "Probe": _handler(self._probe, csi_pb2.ProbeRequest),
                    },
                ),
                grpc.method_handlers_generic_handler(
                    "csi.v1.Node",
                    {
                        "NodePublishVolume": _handler(self._publish, csi_pb2.NodePublishVolumeRequest),
                        "NodeUnpublishVolume": _handler(self._unpublish, csi_pb2.NodeUnpublishVolumeRequest),
                        "NodeGetCapabilities": _handler(self._node_capabilities, csi_pb2.NodeGetCapabilitiesRequest),
                        "NodeGetInfo": _handler(self._node_info, csi_pb2.NodeGetInfoRequest),
                    },
                ),
                grpc.method_handlers_generic_handler(
                    "pluginregistration.Registration",
                    {
                        "GetInfo": _handler(self._registration_info, registration_pb2.InfoRequest),
                        "NotifyRegistrationStatus": _handler(
                            self._note_registration, registration_pb2.RegistrationStatus
                        ),
                    },
                ),
            ]
        )
        # kubelet sees the second socket appear, and then calls at the first.
        _listen(server, self._socket)
        _listen(server, self._registration)
        self._registered = _identity(self._registration)
        server.start()
        return server

    def withdraw(self) -> None:
        """kubelet forgets the driver, and says so in the node's CSINode, when the socket goes. A successor's stays."""
        with contextlib.suppress(OSError):
            # None: this process is about to listen, and no other serves this node's volumes beside it.
            if self._registered in (None, _identity(self._registration)):
                os.unlink(self._registration)

    def waits_for(self) -> str:
        """Why no volume is asked of it; empty when kubelet knows it."""
        return self._told

    def _plugin_info(
        self, _request: csi_pb2.GetPluginInfoRequest, _context: grpc.ServicerContext
    ) -> csi_pb2.GetPluginInfoResponse:
        return csi_pb2.GetPluginInfoResponse(name=DRIVER, vendor_version=VERSION)

    def _plugin_capabilities(
        self, _request: csi_pb2.GetPluginCapabilitiesRequest, _context: grpc.ServicerContext
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        return csi_pb2.GetPluginCapabilitiesResponse()

    def _probe(self, _request: csi_pb2.ProbeRequest, _context: grpc.ServicerContext) -> csi_pb2.ProbeResponse:
        return csi_pb2.ProbeResponse()

    def _node_capabilities(
        self, _request: csi_pb2.NodeGetCapabilitiesRequest, _context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        return csi_pb2.NodeGetCapabilitiesResponse()

    def _node_info(
        self, _request: csi_pb2.NodeGetInfoRequest, _context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetInfoResponse:
        return csi_pb2.NodeGetInfoResponse(node_id=self._settings.node)

    def _publish(
        self, request: csi_pb2.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodePublishVolumeResponse:
        # The types know of no call without a deadline, and kubelet makes none.
        left: object = context.time_remaining()
        seconds = max(0.0, left - ANSWER_SECONDS) if isinstance(left, float) else PATIENCE_SECONDS
        with self._failures(context, request.volume_id):
            if request.readonly:
                raise AttributesRefused("a task's folder cannot be read-only")
            self._volumes.publish(request.volume_id, request.target_path, request.volume_context, seconds)
        return csi_pb2.NodePublishVolumeResponse()

    def _unpublish(
        self, request: csi_pb2.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        with self._failures(context, request.volume_id):
            self._volumes.give_up(request.volume_id, request.target_path)
        return csi_pb2.NodeUnpublishVolumeResponse()

    def _registration_info(
        self, _request: registration_pb2.InfoRequest, _context: grpc.ServicerContext
    ) -> registration_pb2.PluginInfo:
        return registration_pb2.PluginInfo(
            type="CSIPlugin", name=DRIVER, endpoint=self._socket, supported_versions=["1.0.0"]
        )

    def _note_registration(
        self, request: registration_pb2.RegistrationStatus, _context: grpc.ServicerContext
    ) -> registration_pb2.RegistrationStatusResponse:
        if request.plugin_registered:
            self._told = ""
            self._log.line(f"kubelet has registered {DRIVER}")
        else:
            self._told = f"kubelet, which does not register it: {one_line(request.error)}"
            self._log.line(f"Error: kubelet has not registered {DRIVER}: {one_line(request.error)}")
        return registration_pb2.RegistrationStatusResponse()

    @contextlib.contextmanager
    def _failures(self, context: grpc.ServicerContext, name: str) -> Generator[None]:
        """kubelet shows the words as an event of the pod, and asks again, whatever the code is."""
        code = grpc.StatusCode
        try:
            yield
        except AttributesRefused as refused:
            context.abort(code.INVALID_ARGUMENT, str(refused))
        except NotOurs as refused:
            context.abort(code.PERMISSION_DENIED, str(refused))
        except VolumeFailed as failed:
            context.abort(code.FAILED_PRECONDITION, str(failed))
        except VolumePending as pending:
            context.abort(code.DEADLINE_EXCEEDED, str(pending))
        except OSError as error:
            self._log.line(f"Error: volume {escape(name)}: {one_line(str(error))}")
            context.abort(code.INTERNAL, one_line(str(error)))


def _handler(
    answer: Callable[[_Request, grpc.ServicerContext], _Response], request: type[_Request]
) -> "grpc.RpcMethodHandler[_Request, _Response]":
    return grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=request.FromString, response_serializer=_to_bytes
    )


def _to_bytes(message: Message) -> bytes:
    return message.SerializeToString()


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path, follow_symlinks=False)
    return found.st_dev, found.st_ino


def _listen(server: grpc.Server, path: str) -> None:
    """Only root and this process reach the socket. A dead process's is replaced."""
    os.makedirs(os.path.dirname(path), 0o750, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise OSError(f"{path}: {error}") from None
    os.chmod(path, 0o600)

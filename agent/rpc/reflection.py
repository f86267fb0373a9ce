"""grpc.reflection.v1alpha.ServerReflection: what can be asked here, for people with a generic client."""

from collections.abc import Sequence
from typing import Any, Final, cast

from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha.reflection import ReflectionServicer

from agent.rpc.call import Call
from agent.rpc.status import RpcError, Status

SERVICE: Final = "grpc.reflection.v1alpha.ServerReflection"


class Reflection:
    """Answers from the descriptors that protobuf has; grpcio's servicer looks them up."""

    def __init__(self, services: Sequence[str]) -> None:
        self._servicer: Any = ReflectionServicer(services)

    def begin(self, call: Call) -> "Asking":
        return Asking(call, self._servicer)


class Asking:
    """One client's questions, each answered before the next is taken."""

    def __init__(self, call: Call, servicer: Any) -> None:
        self._call = call
        self._servicer = servicer
        self._said_all = False
        call.wait()

    def message(self, data: bytes) -> None:
        """Implements Conversation."""
        try:
            request = pb.ServerReflectionRequest.FromString(data)
        except DecodeError:
            raise RpcError(Status.INTERNAL, "this is no ServerReflectionRequest") from None
        (answer,) = self._servicer.ServerReflectionInfo(iter((request,)), None)
        if not self._call.send(cast("bytes", answer.SerializeToString())):
            self._call.hold()

    def said_all(self) -> None:
        """Implements Conversation."""
        if self._call.writable:
            self._call.finish()
        else:
            self._said_all = True

    def room(self) -> None:
        """Implements Conversation."""
        self._call.release()
        if self._said_all:
            self._call.finish()

    def over(self) -> None:
        """Implements Conversation."""

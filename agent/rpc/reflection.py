"""grpc.reflection.v1alpha.ServerReflection: what can be asked here, for people with a generic client."""

from collections.abc import Sequence
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2 as pb

from agent.rpc.call import Call
from agent.rpc.status import RpcError, Status

SERVICE: Final = "grpc.reflection.v1alpha.ServerReflection"

_POOL: Final[Any] = descriptor_pool.Default()  # of every contract that this process has loaded


class Reflection:
    """Answers from the descriptors that protobuf has. grpcio's own servicer would load all of grpcio."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = sorted(services)

    def begin(self, call: Call) -> "Asking":
        return Asking(call, self)

    def answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        """What is asked for, or NOT_FOUND; INVALID_ARGUMENT for no question."""
        answer = pb.ServerReflectionResponse(original_request=request)
        try:
            self._fill(answer, request)
        except KeyError:
            answer.error_response.error_code = Status.NOT_FOUND
            answer.error_response.error_message = "not found"
        return answer

    def _fill(self, answer: pb.ServerReflectionResponse, request: pb.ServerReflectionRequest) -> None:
        """Raises KeyError for what there is not."""
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in self._services:
                    answer.list_services_response.service.add(name=name)
            case "file_by_filename":
                _add_files(answer, _POOL.FindFileByName(request.file_by_filename))
            case "file_containing_symbol":
                _add_files(answer, _POOL.FindFileContainingSymbol(request.file_containing_symbol))
            case "file_containing_extension":
                asked = request.file_containing_extension
                extended = _POOL.FindMessageTypeByName(asked.containing_type)
                _add_files(answer, _POOL.FindExtensionByNumber(extended, asked.extension_number).file)
            case "all_extension_numbers_of_type":
                extended = _POOL.FindMessageTypeByName(request.all_extension_numbers_of_type)
                found = answer.all_extension_numbers_response
                found.base_type_name = extended.full_name
                found.extension_number.extend(sorted(each.number for each in _POOL.FindAllExtensions(extended)))
            case _:
                answer.error_response.error_code = Status.INVALID_ARGUMENT
                answer.error_response.error_message = "nothing is asked"


def _add_files(answer: pb.ServerReflectionResponse, file: Any) -> None:
    """The file, and all that it builds on."""
    answer.file_descriptor_response.file_descriptor_proto.extend(_with_imports(file, {}).values())


def _with_imports(file: Any, found: dict[str, bytes]) -> dict[str, bytes]:
    if file.name not in found:
        proto = FileDescriptorProto()
        file.CopyToProto(proto)
        found[file.name] = proto.SerializeToString()
        for each in file.dependencies:
            _with_imports(each, found)
    return found


class Asking:
    """One client's questions, each answered before the next is taken."""

    def __init__(self, call: Call, reflection: Reflection) -> None:
        self._call = call
        self._reflection = reflection
        self._said_all = False
        call.wait()

    def message(self, data: bytes) -> None:
        """Implements Conversation."""
        try:
            request = pb.ServerReflectionRequest.FromString(data)
        except DecodeError:
            raise RpcError(Status.INTERNAL, "this is no ServerReflectionRequest") from None
        if not self._call.send(self._reflection.answer(request).SerializeToString()):
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

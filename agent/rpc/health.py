"""grpc.health.v1.Health: Check and Watch, from memory."""

from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2 as pb

from agent.rpc.call import Call
from agent.rpc.status import RpcError, Status
from agent.rpc.unary import Unary

SERVICE: Final = "grpc.health.v1.Health"
WATCHERS_MAX: Final = 256


class Health:
    """What is said of services. Watchers hear the latest; what changed twice while one did not read, he hears once."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}
        self._watchers: set[Watch] = set()

    def set(self, services: Iterable[str], serving: bool) -> None:
        """From now on."""
        for service in services:
            self._serving[service] = serving
        for watcher in tuple(self._watchers):
            watcher.look()

    def end(self) -> None:
        """Nothing is served any more, and watchers are let go."""
        self.set(tuple(self._serving), serving=False)

    def status(self, service: str) -> int | None:
        """A ServingStatus; None for a service that there is not."""
        serving = self._serving.get(service)
        if serving is None:
            return None
        return pb.HealthCheckResponse.SERVING if serving else pb.HealthCheckResponse.NOT_SERVING

    def check(self, call: Call) -> Unary:
        """Begins Check."""
        return Unary(call, self._check)

    def watch(self, call: Call) -> "Watch":
        """Begins Watch. Raises RpcError when too many watch."""
        if len(self._watchers) >= WATCHERS_MAX:
            raise RpcError(Status.RESOURCE_EXHAUSTED, f"{WATCHERS_MAX} watch already")
        watch = Watch(call, self, self._watchers)
        self._watchers.add(watch)
        return watch

    def _check(self, _call: Call, data: bytes) -> bytes:
        status = self.status(_service(data))
        if status is None:
            raise RpcError(Status.NOT_FOUND, "there is no such service here")
        return _response(status)


class Watch:
    """One watcher."""

    def __init__(self, call: Call, health: Health, watchers: "set[Watch]") -> None:
        self._call = call
        self._health = health
        self._watchers = watchers
        self._service: str | None = None
        self._said: int | None = None

    def message(self, data: bytes) -> None:
        """Implements Conversation."""
        if self._service is not None:
            raise RpcError(Status.UNIMPLEMENTED, "one message is asked for, and more came")
        self._service = _service(data)
        self._call.wait()
        self.look()

    def look(self) -> None:
        """Say how it is, if that is news."""
        if self._service is None or not self._call.writable:
            return
        status = self._health.status(self._service)
        if status is None:
            status = pb.HealthCheckResponse.SERVICE_UNKNOWN
        if status != self._said:
            self._said = status
            self._call.send(_response(status))

    def said_all(self) -> None:
        """Implements Conversation."""
        if self._service is None:
            raise RpcError(Status.UNIMPLEMENTED, "one message is asked for, and none came")

    def room(self) -> None:
        """Implements Conversation."""
        self.look()

    def over(self) -> None:
        """Implements Conversation."""
        self._watchers.discard(self)


def _response(status: int) -> bytes:
    return pb.HealthCheckResponse(status=status).SerializeToString()


def _service(data: bytes) -> str:
    try:
        return pb.HealthCheckRequest.FromString(data).service
    except DecodeError:
        raise RpcError(Status.INTERNAL, "this is no grpc.health.v1.HealthCheckRequest") from None

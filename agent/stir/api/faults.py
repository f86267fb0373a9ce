"""What is wrong with a request to the API, in the words of ATIS-1000082. Knows no request and no HTTP server.

    {"requestError":{"serviceException":{"messageId":"SVC4001","text":"Missing ... '%1'","variables":["origid"]}}}

The text keeps its place-holders, and `variables` has what stands in them; nothing that the client sent is repeated.
A verification that fails is no fault of a request: it is answered with 200.
"""

import json
from enum import Enum


class Fault(Enum):
    """HTTP status, message id and text. Those of the report first, then what any HTTP server must be able to say."""

    MISSING_BODY = 400, "SVC4000", "Missing request body"
    MISSING_PARAMETER = 400, "SVC4001", "Missing mandatory parameter '%1'"
    NOT_ACCEPTABLE = 406, "SVC4002", "Requested response body type '%1' is not supported"
    NOT_FOUND = 404, "SVC4003", "Requested resource was not found"
    UNSUPPORTED_TYPE = 415, "SVC4004", "Unsupported request body type, expected '%1'"
    INVALID_PARAMETER = 400, "SVC4005", "Invalid '%1' parameter value: %2"
    UNPARSABLE = 400, "SVC4006", "Failed to parse received message body: %1"
    MISSING_LENGTH = 411, "SVC4007", "Missing mandatory Content-Length header"
    METHOD = 405, "POL4050", "Method not allowed"
    INTERNAL = 500, "POL5000", "Internal Server Error. Please try again later"

    # The report has no words for these; the envelope is OMA's (OMA-TS-REST_NetAPI_Common), and so is its general one.
    TOO_LARGE = 413, "SVC4006", "Failed to parse received message body: %1"
    UNREADABLE = 400, "POL0001", "A policy error occurred. Error code is %1"
    UNAUTHORISED = 401, "POL0001", "A policy error occurred. Error code is %1"
    FORBIDDEN = 403, "POL0001", "A policy error occurred. Error code is %1"
    HEADERS_TOO_LARGE = 431, "POL0001", "A policy error occurred. Error code is %1"
    BUSY = 503, "POL0001", "A policy error occurred. Error code is %1"

    @property
    def status(self) -> int:
        """Of the HTTP response."""
        return self.value[0]

    @property
    def message_id(self) -> str:
        return self.value[1]

    @property
    def text(self) -> str:
        """With place-holders."""
        return self.value[2]

    def body(self, *variables: str) -> bytes:
        """The envelope as JSON."""
        kind = "serviceException" if self.message_id.startswith("SVC") else "policyException"
        what = {"messageId": self.message_id, "text": self.text, "variables": variables}
        return json.dumps({"requestError": {kind: what}}, separators=(",", ":")).encode()


class ApiError(Exception):
    """The client's request cannot be served. `headers` go with the answer."""

    def __init__(self, fault: Fault, *variables: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(fault.message_id, *variables)
        self.fault = fault
        self.variables = variables
        self.headers = headers or {}

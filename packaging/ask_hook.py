"""Asks the agent's hook about one call from the number that is given, as an SBC would; for packaging/test-install."""

import sys

sys.path.append("/usr/lib/sbc-edge-agent/site-packages")
import grpc

from sbcedge.screening.v1 import screening_pb2 as pb
from sbcedge.screening.v1 import screening_pb2_grpc

INVITE = """\
INVITE sip:12015550111@sbc.example.net SIP/2.0
Via: SIP/2.0/UDP 127.0.0.2:5060;branch=z9hG4bK-{calling}
From: <sip:{calling}@peer.example.net;user=phone>;tag=1
To: <sip:12015550111@sbc.example.net;user=phone>
Call-ID: hook-{calling}
CSeq: 1 INVITE
Content-Length: 0

"""

message = INVITE.format(calling=sys.argv[1]).replace("\n", "\r\n").encode()
with grpc.insecure_channel("unix:/run/sbc-edge-agent/hook.sock") as channel:
    stub = screening_pb2_grpc.ScreeningServiceStub(channel)
    answer = stub.Screen(pb.ScreenRequest(id=1, sip_message=message, source_address="127.0.0.2"), timeout=5)
code = answer.answer.code
print(*([pb.Decision.Name(answer.decision)] + [code] * bool(code)))

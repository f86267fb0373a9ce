"""Realistic messages to measure with, constructed: 555-01XX numbers, example.* hosts, RFC 5737 addresses."""

import hashlib
from base64 import urlsafe_b64encode

SDP = (
    "v=0\r\n"
    "o=sbc 3873920123 3873920123 IN IP4 192.0.2.10\r\n"
    "s=-\r\n"
    "c=IN IP4 192.0.2.10\r\n"
    "t=0 0\r\n"
    "m=audio 16384 RTP/AVP 0 8 18 101\r\n"
    "a=rtpmap:0 PCMU/8000\r\n"
    "a=rtpmap:8 PCMA/8000\r\n"
    "a=rtpmap:18 G729/8000\r\n"
    "a=fmtp:18 annexb=no\r\n"
    "a=rtpmap:101 telephone-event/8000\r\n"
    "a=fmtp:101 0-15\r\n"
    "a=ptime:20\r\n"
    "a=maxptime:40\r\n"
    "a=sendrecv\r\n"
)


X5U = (
    "https://certificates.sti.provider.example.net/certificates/shaken/2026/"
    "3f9c2d41-7a5e-4b1f-9d0c-8e6a5b4c3d2e-spc-1234.pem"
)


def _segment(text: str) -> str:
    return urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def token(calling: str, called: str, call_id: str, when: int = 1_791_987_300) -> str:
    """A SHAKEN PASSporT of the length that carriers send; its signature is made up."""
    header = f'{{"alg":"ES256","ppt":"shaken","typ":"passport","x5u":"{X5U}"}}'
    digest = hashlib.sha512(call_id.encode()).digest()
    origid = f"{digest[:4].hex()}-{digest[4:6].hex()}-4a57-9b0e-{digest[6:12].hex()}"
    payload = (
        f'{{"attest":"A","dest":{{"tn":["{called}"]}},"iat":{when},"orig":{{"tn":"{calling}"}},"origid":"{origid}"}}'
    )
    signature = urlsafe_b64encode(digest).rstrip(b"=").decode()
    return f"{_segment(header)}.{_segment(payload)}.{signature}"


def invite(
    calling: str = "12015550123",
    called: str = "13035550199",
    call_id: str = "1f0e2d3c-7b6a@192.0.2.10",
    branch: str = "z9hG4bK-524287-1---7f3a9c0d",
    *,
    from_tag: str = "9fd1a6",
    cseq: int = 1,
    source: str = "192.0.2.10",
    identity: bool = True,
) -> bytes:
    """An INVITE of about 1.6 kB: 12 headers with an Identity of about 700 bytes, and an SDP offer.

    Without `identity` it is an unsigned call. `calling` and `called` are E.164 without "+".
    """
    uri = f"sip:+{called}@sbc.example.net;user=phone"
    asserted = f"sip:+{calling}@carrier.example.com;user=phone"
    rows = [
        f"INVITE {uri} SIP/2.0",
        f"Via: SIP/2.0/UDP {source}:5060;branch={branch};rport",
        "Max-Forwards: 69",
        f'From: "Constructed Caller" <{asserted}>;tag={from_tag}',
        f"To: <{uri}>",
        f"Call-ID: {call_id}",
        f"CSeq: {cseq} INVITE",
        f"Contact: <sip:+{calling}@{source}:5060;transport=udp>",
        f"P-Asserted-Identity: <{asserted}>",
        "Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, PRACK, UPDATE",
        "Content-Type: application/sdp",
        f"Content-Length: {len(SDP)}",
    ]
    if identity:
        rows.insert(
            9,
            f"Identity: {token(calling, called, call_id)};info=<{X5U}>;alg=ES256;ppt=shaken",
        )
    return ("\r\n".join(rows) + "\r\n\r\n" + SDP).encode()

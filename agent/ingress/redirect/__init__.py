"""The SIP redirect server: an SBC sends us its INVITE and goes by the answer. For SBCs that run no code of ours.

    settings    where to listen, and every bound
    responder   what is answered: no sockets, time is an argument
    udp         datagrams in batches
    stream      connections over TCP and TLS
    server      all of them together, started and stopped

A refusal of screening is the final answer. A call that passes gets 302 with the trunk's next hop, or the 404 or 503
that the trunk is configured with, at which the SBC goes on to its next route. Nothing of the INVITE but what every
response copies goes back (RFC 3261 8.2.6.2): Identity rows stay with the SBC, which sends them on as they came.
"""

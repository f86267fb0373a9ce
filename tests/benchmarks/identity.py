"""What caller-ID authentication costs beside its bare cryptography, in microseconds. Prints one JSON object.

verify       read and judge an Identity of one of 32 signers whose certificates are at hand; a new token each time
bare_verify  the ES256 in it by the library that we use, and nothing else
again        the same token once more: a retransmission, or a copy on another branch
sign         a PASSporT with new claims
bare_sign    the ES256 in it
verify_ratio and sign_ratio are bare to whole
"""

import gc
import json
from statistics import median
from time import perf_counter
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from agent.identity.jws import der_signature, read_jws
from agent.identity.model import Credential, SignalledCall
from agent.identity.replay import ReplayCache
from agent.identity.signing import Signer
from agent.identity.verification import Verifier, VerifierSettings

CALLS: Final = 250
ROUNDS: Final = 40
SIGNERS: Final = 32
WHEN: Final = 1_791_987_300
ORIGID: Final = "8f4c1f5e-3f0a-4a57-9b0e-0c5f8d1a2b3c"
URL: Final = "https://certificates.sti.provider{}.example.net/shaken/2026/3f9c2d41-7a5e-4b1f-9d0c-8e6a5b4c3d2e.pem"
ES256: Final = ECDSA(SHA256())


class World:
    """Signers and their certificates."""

    def __init__(self) -> None:
        self.keys = [generate_private_key(SECP256R1()) for _ in range(SIGNERS)]
        self.public = [key.public_key() for key in self.keys]
        self.signers = [Signer(key, URL.format(n)) for n, key in enumerate(self.keys)]
        self.credentials = {
            signer.url: Credential(key, "1234", "CN=Bench CA", WHEN - 1e6, WHEN + 1e6, f"{n:064x}")
            for n, (signer, key) in enumerate(zip(self.signers, self.public, strict=True))
        }


class Round:
    """Calls that nobody has seen before, and a verifier that has seen every signer before."""

    def __init__(self, world: World, first: int) -> None:
        self._world = world
        self._orders = [
            (world.signers[n % SIGNERS], f"12015{n % 600_000:06d}", (f"13035{n * 7 % 600_000:06d}",))
            for n in range(first, first + CALLS)
        ]
        tokens = [signer.sign(orig, dest, "A", ORIGID, WHEN) for signer, orig, dest in self._orders]
        self._rows = [
            ((token,), SignalledCall((orig,), dest[0], dest[0], f"{first + n}@192.0.2.10".encode(), b"1"))
            for n, (token, (_, orig, dest)) in enumerate(zip(tokens, self._orders, strict=True))
        ]
        taken_apart = [read_jws(token.split(b";")[0]) for token in tokens]
        which = [(first + n) % SIGNERS for n in range(CALLS)]
        self._checks = [
            (world.public[n], der_signature(jws.signature), jws.signed)
            for n, jws in zip(which, taken_apart, strict=True)
        ]
        self._texts = [(world.keys[n], jws.signed) for n, jws in zip(which, taken_apart, strict=True)]
        self._verifier = Verifier(VerifierSettings(), ReplayCache())
        for signer in world.signers:
            self._verifier.read((signer.sign("12015550123", ("13035550199",), "A", ORIGID, WHEN),))

    def costs(self) -> dict[str, float]:
        """Seconds of each kind of work."""
        works = {
            "verify": self.verify,
            "bare_verify": self.bare_verify,
            "again": self.verify,
            "sign": self.sign,
            "bare_sign": self.bare_sign,
        }
        took = {}
        for name, work in works.items():
            started = perf_counter()
            work()
            took[name] = perf_counter() - started
        assert self._verifier.signatures == CALLS  # once each: not known before, and known again
        return took

    def verify(self) -> None:
        verifier, credentials = self._verifier, self._world.credentials
        for values, call in self._rows:
            found = verifier.judge(verifier.read(values), credentials, call, WHEN)
            assert found.failure is None

    def bare_verify(self) -> None:
        for key, signature, signed in self._checks:
            key.verify(signature, signed, ES256)

    def sign(self) -> None:
        for signer, orig, dest in self._orders:
            signer.sign(orig, dest, "A", ORIGID, WHEN)

    def bare_sign(self) -> None:
        for key, text in self._texts:
            key.sign(text, ES256)


def main() -> None:
    world = World()
    rounds = []
    for number in range(ROUNDS):
        this = Round(world, number * CALLS)
        gc.collect()
        gc.disable()
        rounds.append(this.costs())
        gc.enable()
    result = {name: median(row[name] for row in rounds) / CALLS * 1e6 for name in rounds[0]}
    # Of each round by itself: who else uses the machine then uses it for both.
    for name in ("verify", "sign"):
        result[f"{name}_ratio"] = median(row[f"bare_{name}"] / row[name] for row in rounds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

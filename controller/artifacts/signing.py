"""What is signed of a list: its manifest, serialised without the signature (sbcedge.control.v1.ArtifactManifest).

Pure. Here a protobuf message is made outside of services/wire.py, since its bytes are what the signature is about.
"""

from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp

from controller.authority.signer import ArtifactSigner
from controller.store.artifacts import ArtifactDraft, Signed
from sbcedge.control.v1 import control_pb2 as pb


def signing(draft: ArtifactDraft, signer: ArtifactSigner) -> Callable[[int], Signed]:
    """Signs a draft as the generation that the store will give it."""

    def sign(generation: int) -> Signed:
        manifest = pb.ArtifactManifest(
            kind=draft.kind,
            name=draft.name,
            generation=generation,
            sha256=draft.sha256,
            size=draft.size,
            format_version=draft.format_version,
            not_after=_timestamp(draft.not_after),
            key_id=signer.key_id,
        ).SerializeToString(deterministic=True)
        return Signed(manifest, signer.key_id, signer.sign(manifest))

    return sign


def _timestamp(when: float | None) -> Timestamp | None:
    if when is None:
        return None
    stamp = Timestamp()
    stamp.FromNanoseconds(round(when * 1e6) * 1000)
    return stamp

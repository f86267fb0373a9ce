"""The command secsipidx as a peer: signs and verifies one Identity per call of it."""

import json
import os
import subprocess
import time

from tests.integration.stir.laboratory import CALLED, CALLING, ORIGID, Lab


def run(lab: Lab, *arguments: str) -> "subprocess.CompletedProcess[str]":
    # Go takes the authorities of https servers from this file.
    env = {**os.environ, "SSL_CERT_FILE": str(lab.file("https-root.pem"))}
    return subprocess.run(["secsipidx", *arguments], env=env, check=False, capture_output=True, text=True, timeout=20)


def signed_by_them(lab: Lab, *, calling: str = CALLING, attest: str = "A", url: str = "signer", key: str = "") -> str:
    """An Identity of theirs."""
    done = run(
        lab, "-sign-full", "-orig-tn", calling, "-dest-tn", CALLED, "-attest", attest, "-orig-id", ORIGID,
        "-x5u", lab.url(url), "-k", str(lab.file(f"{key or url}.key")),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def signed_by_them_before(lab: Lab, age: int) -> str:
    """The same, of some seconds ago: their -iat is for claims that are given as a whole only."""
    header = {"alg": "ES256", "ppt": "shaken", "typ": "passport", "x5u": lab.url("signer")}
    iat = int(time.time()) - age
    claims = {"attest": "A", "dest": {"tn": [CALLED]}, "iat": iat, "orig": {"tn": CALLING}, "origid": ORIGID}
    texts = [json.dumps(part, separators=(",", ":")) for part in (header, claims)]
    done = run(lab, "-sign", "-header", texts[0], "-payload", texts[1], "-k", str(lab.file("signer.key")))
    assert done.returncode == 0, done.stderr
    return f"{done.stdout.strip()};info=<{lab.url('signer')}>;alg=ES256;ppt=shaken"


def verified_by_them(lab: Lab, identity: str, key: str = "", *options: str) -> bool:
    """Whether it is good for them, under the certificate at `key` (default: the signer's, from its file)."""
    where = key or str(lab.file("signer.pem"))
    done = run(lab, "-check", "-identity", identity, "-fpubkey", where, "-expire", "60", *options)
    good = done.returncode == 0
    assert done.stdout.strip() == ("ok" if good else "not-ok") or done.stdout.startswith("error"), done
    return good

"""Chains of diversions (RFC 8946): from the number that was called to the one that is. Knows claims; no signature.

The caller says which tokens are good. Each div names in `div` what its predecessor has in `dest`; the outermost dest
is compared with the Request-URI. Rows are in no order, and dest may hold several numbers, so a chain is searched.
"""

from collections.abc import Sequence
from typing import Final

from agent.identity.checks import names
from agent.identity.claims import Claims

MAX_CHAIN: Final = 10
"""Diversions of one call. RFC 8946 gives no bound; SIP's Max-Forwards stops real ones long before that."""


def find_chain(original: Claims, diversions: Sequence[Claims], called: str) -> tuple[int, ...] | None:
    """Indices into `diversions` that lead from the original's dest to `called`, the shortest such; () if it is there.

    None if there is no way. Every div of the chain has the orig of the original (RFC 8946 5).
    """
    if names(original, called):
        return ()
    chains: list[tuple[int, ...]] = [()]
    unused = {i for i, div in enumerate(diversions) if div.div and div.orig == original.orig}
    for _ in range(MAX_CHAIN):
        longer: list[tuple[int, ...]] = []
        for chain in chains:
            last = diversions[chain[-1]] if chain else original
            for index in sorted(unused):
                if names(last, diversions[index].div):
                    if names(diversions[index], called):
                        return (*chain, index)
                    longer.append((*chain, index))
        unused -= {chain[-1] for chain in longer}  # a loop leads where a shorter chain has been
        chains = longer
    return None

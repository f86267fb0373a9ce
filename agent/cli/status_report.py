"""The status of the running agent as lines and rows, for `status` and `top`. Knows the message, and no terminal."""

from collections.abc import Sequence

from sbcedge.admin.v1 import admin_pb2 as pb

Rows = list[Sequence[str]]

MEGABYTE = 1_000_000


def summary(status: pb.Status) -> list[str]:
    """What matters most, in words."""
    name = f' "{status.policy_name}"' if status.policy_name else ""
    counters = status.counters
    lines = [
        f"sbc-edge-agent {status.version}, since {status.started_at.ToJsonString()[:19]}Z"
        + (", draining" if status.draining else ""),
        f"policy generation {status.policy_generation}{name}",
        ", ".join(
            f"{counters[name]:,} {words}"
            for name, words in (
                ("attempts", "attempts"),
                ("sessions", "calls in progress"),
                ("unreadable", "unreadable messages"),
                ("screening_failures", "faults while screening"),
            )
        ),
    ]
    if status.policy_error:
        lines.append(f"the policy that was offered last is wrong, the old one stays: {status.policy_error}")
    overflows = {n: c for n, c in sorted(counters.items()) if n.startswith("overflows_") and c}
    if overflows:
        lines.append("tables that were full: " + ", ".join(f"{n[10:]} {c:,} times" for n, c in overflows.items()))
    return lines


def component_rows(status: pb.Status) -> Rows:
    """Part, state, detail."""
    return [(c.component, "well" if c.healthy else "NOT WELL", c.detail) for c in status.components]


def trunk_rows(status: pb.Status) -> Rows:
    """Trunk, attempts, allowed, refused, dropped."""
    return [(t.trunk, f"{t.attempts:,}", f"{t.allowed:,}", f"{t.refused:,}", f"{t.dropped:,}") for t in status.trunks]


def rule_rows(status: pb.Status) -> Rows:
    """Rule, mode, refused, dropped, shadow."""
    return [(r.rule, r.mode, f"{r.refused:,}", f"{r.dropped:,}", f"{r.shadow:,}") for r in status.rules]


def list_rows(status: pb.Status) -> Rows:
    """List, version, when it was made, numbers."""
    return [
        (li.name, li.version, li.created_at.ToJsonString() if li.HasField("created_at") else "", f"{li.numbers:,}")
        for li in status.lists
    ]


def rate_rows(before: pb.Status, after: pb.Status, seconds: float) -> Rows:
    """Trunk, attempts/s, of how many allowed by its limits, refused/s, share refused, calls in progress."""
    old = {t.trunk: t for t in before.trunks}
    rows: Rows = []
    for trunk in after.trunks:
        was = old.get(trunk.trunk, pb.TrunkStatus())
        attempts = (trunk.attempts - was.attempts) / seconds
        refused = (trunk.refused + trunk.dropped - was.refused - was.dropped) / seconds
        limit = f"{trunk.rate_limit:g}" if trunk.rate_limit else "-"
        load = f"{attempts / trunk.rate_limit:.0%}" if trunk.rate_limit else "-"
        sessions = f"{trunk.sessions:,} of {trunk.session_limit:,}" if trunk.session_limit else "-"
        rows.append((trunk.trunk, f"{attempts:,.1f}", limit, load, f"{refused:,.1f}", f"{trunk.attempts:,}", sessions))
    return rows


def refusal_rows(before: pb.Status, after: pb.Status, seconds: float) -> Rows:
    """Rule, mode, refusals/s, would-be refusals/s, and both since the start; only rules that ever refused."""
    old = {r.rule: r for r in before.rules}
    rows: Rows = []
    for rule in after.rules:
        total = rule.refused + rule.dropped
        if not total and not rule.shadow:
            continue
        was = old.get(rule.rule, pb.RuleStatus())
        rate = (total - was.refused - was.dropped) / seconds
        shadow = (rule.shadow - was.shadow) / seconds
        rows.append((rule.rule, rule.mode, f"{rate:,.1f}", f"{shadow:,.1f}", f"{total:,}", f"{rule.shadow:,}"))
    return rows


def rates_line(before: pb.Status, after: pb.Status, seconds: float) -> str:
    """The whole agent on one line."""
    attempts = (after.counters["attempts"] - before.counters["attempts"]) / seconds
    parts = [f"{attempts:,.1f} attempts/s", f"{after.counters['sessions']:,} calls in progress"]
    if "spool_bytes" in after.counters:
        parts.append(f"{after.counters['spool_bytes'] / MEGABYTE:,.1f} MB of records")
    return ", ".join(parts)

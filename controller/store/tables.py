"""The tables as the code sees them. How a database gets from one release's tables to the next's is in migrations/.

Rows are facts, not objects: which generation an agent shall have, whether a session still lives, is computed where it
is asked. Nothing that an agent can send makes a table grow without a bound; the bounds are where rows are written.
"""

from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, Column, Double, ForeignKey, Index, Integer, LargeBinary, MetaData, Table
from sqlalchemy import ForeignKeyConstraint as References
from sqlalchemy.types import TypeEngine

from controller.store.columns import Instant, Json, Unsigned, Words

METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _key(name: str, kind: type[TypeEngine[Any]] | TypeEngine[Any] = Words) -> Column[Any]:
    return Column(name, kind, primary_key=True, autoincrement=False)


def _has(name: str, kind: type[TypeEngine[Any]] | TypeEngine[Any] = Words) -> Column[Any]:
    return Column(name, kind, nullable=False)


def _may(name: str, kind: type[TypeEngine[Any]] | TypeEngine[Any] = Words) -> Column[Any]:
    return Column(name, kind, nullable=True)


# --- what changed, who leads

revisions = Table("revisions", METADATA, _key("topic"), _has("revision", BigInteger))
leadership = Table(
    "leadership",
    METADATA,
    _key("id", Integer),
    _has("epoch", BigInteger),
    _may("controller_id"),  # NULL: the last one resigned
    _may("address"),
    _may("since", Instant),
)
controllers = Table(
    "controllers", METADATA, _key("id"), _has("address"), _has("started_at", Instant), _has("last_seen", Instant)
)

# --- agents

agents = Table(
    "agents",
    METADATA,
    _key("id"),
    _has("instance_uid"),
    _has("hostname"),
    _has("version"),
    _has("enrolled_at", Instant),
    _has("certificate_not_after", Instant),
    _may("revoked_at", Instant),
    _has("revoked_why"),
    Index(None, "instance_uid"),
)
# Apart from `agents`, since it is written every few seconds.
agent_notes = Table(
    "agent_notes",
    METADATA,
    Column("agent_id", Words, ForeignKey("agents.id"), primary_key=True),
    _has("last_seen", Instant),
    _may("health", Json),
    _may("counters", Json),  # apart, since they are many and a list of agents does not show them
)
sessions = Table(
    "sessions",
    METADATA,
    Column("agent_id", Words, ForeignKey("agents.id"), primary_key=True),
    _has("id"),
    _has("controller_id"),
    _has("instance_uid"),
    _has("boot_id"),
    _has("version"),
    _has("capabilities", Json),
    _has("address"),
    _has("opened_at", Instant),
)
boots = Table(
    "boots",
    METADATA,
    Column("agent_id", Words, ForeignKey("agents.id"), primary_key=True),
    _key("boot_id"),
    _has("instance_uid"),
    _has("address"),
    _has("first_seen", Instant),
    _has("last_seen", Instant),
    _has("returns", Integer),
    _may("returned_at", Instant),
    _has("banned", Boolean),
)

# --- policy

policies = Table(
    "policies",
    METADATA,
    _key("generation", BigInteger),
    _has("sha256", LargeBinary),
    _has("name"),
    _has("toml"),
    _has("document", LargeBinary),
    _has("author"),
    _has("comment"),
    _has("created_at", Instant),
    _has("rolled_back_to", BigInteger),
)
policy_artifacts = Table(
    "policy_artifacts",
    METADATA,
    Column("generation", BigInteger, ForeignKey("policies.generation"), primary_key=True),
    _key("kind"),
    _key("name"),
    _has("artifact_generation", BigInteger),
    References(
        ["kind", "name", "artifact_generation"],
        ["artifacts.kind", "artifacts.name", "artifacts.generation"],
        name="fk_policy_artifacts_artifacts",
    ),
)
rollouts = Table(
    "rollouts",
    METADATA,
    Column("generation", BigInteger, ForeignKey("policies.generation"), primary_key=True),
    _has("state"),
    _has("why"),
    _has("step", Integer),
    _has("steps", Json),
    _has("soak", Double),
    _has("refusal_rise", Double),
    _has("started_at", Instant),
    _has("step_started_at", Instant),
    _has("memory", Json),
)
offers = Table(
    "offers",
    METADATA,
    Column("agent_id", Words, ForeignKey("agents.id"), primary_key=True),
    Column("generation", BigInteger, ForeignKey("policies.generation"), primary_key=True),
    _has("step", Integer),
    _has("phase", Integer),
    _may("problem", Json),
    _has("offered_at", Instant),
    _has("updated_at", Instant),
    Index(None, "generation"),
)

# --- upgrades

upgrades = Table(
    "upgrades",
    METADATA,
    _key("number", BigInteger),
    _has("version"),
    _has("key"),
    _has("author"),
    _has("takes_back", BigInteger),
    _has("state"),
    _has("why"),
    _has("step", Integer),
    _has("steps", Json),
    _has("soak", Double),
    _has("refusal_rise", Double),
    _has("started_at", Instant),
    _has("step_started_at", Instant),
    _has("memory", Json),
)
upgrade_offers = Table(
    "upgrade_offers",
    METADATA,
    Column("agent_id", Words, ForeignKey("agents.id"), primary_key=True),
    Column("number", BigInteger, ForeignKey("upgrades.number"), primary_key=True),
    _has("version"),
    _has("before"),
    _has("step", Integer),
    _has("phase", Integer),
    _may("problem", Json),
    _has("offered_at", Instant),
    _has("updated_at", Instant),
    Index(None, "number"),
)

# --- lists

artifacts = Table(
    "artifacts",
    METADATA,
    _key("kind"),
    _key("name"),
    _key("generation", BigInteger),
    _has("sha256", LargeBinary),
    _has("size", BigInteger),
    _has("format_version", Integer),
    _may("not_after", Instant),
    _has("key_id"),
    _has("signature", LargeBinary),
    _has("manifest", LargeBinary),
    _has("location"),
    _has("author"),
    _has("created_at", Instant),
    _has("counts", Json),
    Index(None, "sha256"),
)
artifact_deltas = Table(
    "artifact_deltas",
    METADATA,
    _key("base_sha256", LargeBinary),
    _key("target_sha256", LargeBinary),
    _has("sha256", LargeBinary),
    _has("size", BigInteger),
    _has("location"),
)
fetches = Table(
    "fetches",
    METADATA,
    _key("source"),
    _has("tried_at", Instant),
    _may("fetched_at", Instant),
    _has("validator"),
    _has("problem"),
)

# --- limits

limits = Table(
    "limits",
    METADATA,
    _key("name"),
    _has("rate", Double),
    _has("burst", Double),
    _has("partition"),
    _has("author"),
    _has("updated_at", Instant),
    _may("warn_at", Double),  # none: written by a release that knew of none
)

# --- records

watermarks = Table(
    "watermarks",
    METADATA,
    _key("agent_id"),
    _key("spool_epoch", Unsigned),
    _has("committed_through", BigInteger),
    _has("records", BigInteger),
    _has("updated_at", Instant),
)
dropped_ranges = Table(
    "dropped_ranges",
    METADATA,
    _key("agent_id"),
    _key("spool_epoch", Unsigned),
    _key("first", BigInteger),
    _key("kind"),
    _has("last", BigInteger),
    _has("count", BigInteger),
    _has("reason"),
    _has("at", Instant),
    Index(None, "agent_id", "at"),
)
files = Table(
    "files",
    METADATA,
    _key("path"),
    _has("kind"),
    _has("records", BigInteger),
    _has("bytes", BigInteger),
    _has("first_at", Instant),
    _has("last_at", Instant),
    _has("created_at", Instant),
    Index(None, "last_at", "first_at"),
)

# --- access

tokens = Table(
    "tokens",
    METADATA,
    _key("id"),
    _has("secret_sha256", LargeBinary),
    _has("note"),
    _has("created_by"),
    _has("created_at", Instant),
    _has("expires_at", Instant),
    _has("agent_id"),
    _may("used_at", Instant),
    _has("used_by"),
    _may("revoked_at", Instant),
    # Of the enrolment that used it, so that the same request again gets the same answer.
    _may("request_sha256", LargeBinary),
    _may("certificate", LargeBinary),
)
operators = Table(
    "operators",
    METADATA,
    _key("name"),
    _has("role", Integer),
    Column("token_id", Words, nullable=False, unique=True),
    _has("secret_sha256", LargeBinary),
    _has("created_by"),
    _has("created_at", Instant),
    _has("expires_at", Instant),
    _may("revoked_at", Instant),
)
certificates = Table(
    "certificates",
    METADATA,
    _key("serial"),
    _has("kind"),
    _has("name"),
    _has("not_before", Instant),
    _has("not_after", Instant),
    _has("key_sha256", LargeBinary),
    _has("issued_at", Instant),
    _may("revoked_at", Instant),
    _has("revoked_why"),
    Index(None, "kind", "name"),
    Index(None, "not_after"),
)
authorities = Table(
    "authorities", METADATA, _key("name"), _has("certificate", LargeBinary), _has("created_at", Instant)
)
# When the state was put back from a back-up of an earlier time.
restores = Table("restores", METADATA, _key("restored_at", Instant), _has("backup_at", Instant))
artifact_keys = Table(
    "artifact_keys", METADATA, _key("key_id"), _has("public_key", LargeBinary), _has("created_at", Instant)
)

# --- audit

audit = Table(
    "audit",
    METADATA,
    _key("sequence", BigInteger),
    _has("at", BigInteger),  # microseconds: they are hashed
    _has("actor"),
    _has("action"),
    _has("detail"),
    _has("hash", LargeBinary),
)
audit_head = Table("audit_head", METADATA, _key("id", Integer), _has("sequence", BigInteger), _has("hash", LargeBinary))

"""Brings the tables of a store to what this release knows, by the steps in migrations/versions.

Knows alembic. Steps only add: a release can run beside the one before it for as long as an update takes.
"""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from controller.errors import SchemaTooNew

_STEPS: Final = Path(__file__).parent / "migrations"


def migrate(connection: Connection) -> None:
    """Take all steps that are missing, within the transaction of this connection. Raises SchemaTooNew."""
    config = Config()
    config.set_main_option("script_location", str(_STEPS).replace("%", "%%"))
    config.attributes["connection"] = connection
    current = MigrationContext.configure(connection).get_current_revision()
    steps = ScriptDirectory.from_config(config)
    try:
        steps.get_revision(current or "base")
    except CommandError:
        raise SchemaTooNew(
            f"the store was migrated to {current} by a later release of sbc-controller; this one knows "
            f"{steps.get_current_head()}. Install the later release, or restore the back-up from before the update"
        ) from None
    if current != steps.get_current_head():
        command.upgrade(config, "head")

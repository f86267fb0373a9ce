"""Steps of the schema. Alembic finds them by their folder; once released a step never changes."""

"""Run by Alembic: migrate over the connection, and in the transaction, that the caller opened."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes.get("metadata"),
    render_as_batch=context.config.attributes.get("batch", False),  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()

"""The store in a PostgreSQL database: `PostgresStore`.

options (what a URL says) · connection, channels (who talks to the server, and to which server) · lineage (whether it lost
what it had acknowledged) · schema (migrations, settings) · batch (commits as arrays) · reads · lease · sweeper · errors
"""

from perdure.statestore.postgres.options import Options
from perdure.statestore.postgres.store import PostgresStore

__all__ = ["Options", "PostgresStore"]

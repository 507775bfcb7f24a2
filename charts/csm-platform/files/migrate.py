"""Brings MLflow's tables up to the image's version, and with `--users` those of its users.

    python migrate.py postgresql+psycopg2://user@host:port/database [--users]

Pods that start together wait for each other on a lock of the database, because a migration must not run twice at once.
libpq reads the password from PGPASSWORD.
"""

import sys

import psycopg2
from mlflow.db import commands as runs

LOCK = 0x63736D  # any number that nobody else locks in this database

address, *options = sys.argv[1:]
with psycopg2.connect(address.replace("+psycopg2", "")) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
    runs.main(["upgrade", address], standalone_mode=False)
    if "--users" in options:
        from mlflow.server.auth.db.cli import commands as users

        users.main(["upgrade", "--url", address], standalone_mode=False)

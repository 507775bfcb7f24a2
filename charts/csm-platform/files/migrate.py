"""Brings MLflow's tables, and those of its users, up to the image's version: python migrate.py postgresql+psycopg2://user@host:port/database

Pods that start together wait for each other on a lock of the database, because a migration must not run twice at once.
libpq reads the password from PGPASSWORD.
"""

import subprocess
import sys

import psycopg2

LOCK = 0x63736D  # any number that nobody else locks in this database

address = sys.argv[1]
with psycopg2.connect(address.replace("+psycopg2", "")) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
    for command in (["mlflow", "db", "upgrade", address], [sys.executable, "-m", "mlflow.server.auth", "db", "upgrade", "--url", address]):
        done = subprocess.run(command, check=False)
        if done.returncode != 0:
            sys.exit(f"error: {' '.join(command)}: exit code {done.returncode}; the tables are as they were before it")

"""The tables of a database, and their version.

A study's files (its teacher) lie in rows of a few MiB, for Postgres reads and sends a row as a
whole; they are found by their content, so studies with the same teacher share one copy.
"""

import sqlalchemy as sa
from sqlalchemy import Column

SCHEMA_VERSION = 2
ADDED_TO = {1}
"""Older versions, to which only tables have been added: they can be read, and brought up to date
by making what is missing."""
PART_BYTES = 4 * 1024**2
"""The most that one row of a file holds."""

metadata = sa.MetaData()
schema = sa.Table("igkd_schema", metadata, Column("version", sa.Integer, primary_key=True))
studies = sa.Table(
    "igkd_studies",
    metadata,
    Column("study_name", sa.String(512), primary_key=True),
    Column("question", sa.Text, nullable=False),
    Column("trials", sa.Integer, nullable=False),
    Column("facts", sa.Text, nullable=False),
    Column("created", sa.String(64), nullable=False),
)
slots = sa.Table(
    "igkd_slots",
    metadata,
    Column("study_name", sa.String(512), primary_key=True),
    Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    Column("state", sa.String(16), nullable=False, server_default="open"),  # open, leased, done
    Column("attempt", sa.Integer, nullable=False, server_default="0"),  # 0 until the first claim
    Column("owner", sa.String(32)),
    Column("host", sa.String(256)),
    Column("pid", sa.Integer),
    Column("process_started", sa.String(64)),
    Column("boot_id", sa.String(128)),
    Column("counter", sa.BigInteger, nullable=False, server_default="0"),
    Column("trial_number", sa.Integer),
    Column("outcome", sa.Text),
)
files = sa.Table(
    "igkd_files",
    metadata,
    Column("study_name", sa.String(512), primary_key=True),
    Column("name", sa.String(256), primary_key=True),
    Column("sha256", sa.String(64), nullable=False),
    Column("bytes", sa.BigInteger, nullable=False),
)
file_parts = sa.Table(
    "igkd_file_parts",
    metadata,
    Column("sha256", sa.String(64), primary_key=True),
    Column("part", sa.Integer, primary_key=True, autoincrement=False),
    Column("content", sa.LargeBinary, nullable=False),
)

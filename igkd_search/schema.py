"""The tables of a database, and their version.

A study's files (its teacher) lie in rows of a few MiB, for Postgres reads and sends a row as a
whole; they are found by their content, so studies with the same teacher share one copy.
"""

import sqlalchemy as sa
from sqlalchemy import Column

SCHEMA_VERSION = 3
ADDED_TO = {1, 2}
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
attempts = sa.Table(
    "igkd_attempts",  # which worker had which slot when; what an attempt ended with
    metadata,
    Column("study_name", sa.String(512), primary_key=True),
    Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    Column("worker", sa.String(32), nullable=False),
    Column("host", sa.String(256), nullable=False),
    Column("pid", sa.Integer, nullable=False),
    Column("started", sa.Float(53), nullable=False),  # seconds since 1970 by the database's clock
    Column("ended", sa.Float(53)),
    Column("end", sa.String(16)),  # done, released, died, forgiven
)
workers = sa.Table(
    "igkd_workers",
    metadata,
    Column("worker", sa.String(32), primary_key=True),
    Column("study_name", sa.String(512), nullable=False, index=True),
    Column("host", sa.String(256), nullable=False),
    Column("pid", sa.Integer, nullable=False),
    Column("process_started", sa.String(64), nullable=False),
    Column("boot_id", sa.String(128), nullable=False),
    Column("device", sa.String(256), nullable=False),
    Column("uuid", sa.String(128)),
    Column("versions", sa.Text, nullable=False),
    Column("started", sa.Float(53), nullable=False),
    Column("last_seen", sa.Float(53), nullable=False),
    Column("state", sa.String(16), nullable=False),  # waiting, training, left
    Column("slot", sa.Integer),
    Column("trial_number", sa.Integer),
    Column("epoch", sa.Integer),
    Column("epochs", sa.Integer),
    Column("images_per_s", sa.Float(53)),
)
searches = sa.Table(
    "igkd_searches",
    metadata,
    Column("study_name", sa.String(512), primary_key=True),
    # raised by each `igkd stop`: a worker leaves when it is another than when it came
    Column("stops", sa.Integer, nullable=False, server_default="0"),
    Column("seconds", sa.Float(53), nullable=False, server_default="0"),  # with a worker at work
    Column("ticked", sa.Float(53), nullable=False, server_default="0"),  # when that was last added
)
queue = sa.Table(
    "igkd_queue",  # configurations to be tried next, each by the first fresh slot that is claimed
    metadata,
    Column("study_name", sa.String(512), primary_key=True),
    Column("position", sa.Integer, primary_key=True, autoincrement=False),
    Column("parameters", sa.Text, nullable=False),
    Column("slot", sa.Integer),  # NULL until one has taken it
)

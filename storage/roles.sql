-- The roles of a search and its database; psql runs it as a superuser, as often as one likes:
--
--   igkd_owner    owns the database, makes the tables and brings them up to date
--   igkd_worker   reads and writes rows; makes, empties and drops no table
--   igkd_reader   reads: dashboards, `igkd status`, `igkd report`
--
--   psql -f roles.sql                      the database is igkd
--   psql -v database=mine -f roles.sql     or another
--
-- A password that is in the environment (IGKD_OWNER_PASSWORD, IGKD_WORKER_PASSWORD,
-- IGKD_READER_PASSWORD) is set; without it a role keeps the one it has.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
\if :{?database}
\else
    \set database igkd
\endif

SELECT format('CREATE ROLE %I LOGIN', name)
    FROM unnest(ARRAY['igkd_owner', 'igkd_worker', 'igkd_reader']) AS name
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec
-- A mistaken program is stopped here; what holds even if it undoes this are the grants below.
ALTER ROLE igkd_reader SET default_transaction_read_only = on;
ALTER ROLE igkd_owner SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE igkd_worker SET idle_in_transaction_session_timeout = '60s';

\getenv owner_password IGKD_OWNER_PASSWORD
\if :{?owner_password}
    ALTER ROLE igkd_owner PASSWORD :'owner_password';
\endif
\getenv worker_password IGKD_WORKER_PASSWORD
\if :{?worker_password}
    ALTER ROLE igkd_worker PASSWORD :'worker_password';
\endif
\getenv reader_password IGKD_READER_PASSWORD
\if :{?reader_password}
    ALTER ROLE igkd_reader PASSWORD :'reader_password';
\endif

SELECT format('CREATE DATABASE %I OWNER igkd_owner', :'database')
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database')
\gexec
ALTER DATABASE :"database" OWNER TO igkd_owner;
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO igkd_worker, igkd_reader;

\connect :"database"
SET client_min_messages = warning;
ALTER SCHEMA public OWNER TO igkd_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO igkd_worker, igkd_reader;

-- tables that are there already, and those that the owner will make
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO igkd_worker;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO igkd_worker;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO igkd_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE igkd_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO igkd_worker;
ALTER DEFAULT PRIVILEGES FOR ROLE igkd_owner IN SCHEMA public
    GRANT USAGE, SELECT ON SEQUENCES TO igkd_worker;
ALTER DEFAULT PRIVILEGES FOR ROLE igkd_owner IN SCHEMA public
    GRANT SELECT ON TABLES TO igkd_reader;

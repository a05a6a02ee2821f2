"""A database as the first release left it: its statements, as they were, and rows of every table.

What stands here is history and never changes.
"""

from __future__ import annotations

from sqlalchemy import create_engine

_TABLES = (
    "CREATE TABLE valuealign_schema (version INTEGER NOT NULL)",
    """CREATE TABLE responses (
        id VARCHAR(64) NOT NULL, kind VARCHAR(16) NOT NULL, name VARCHAR(128) NOT NULL, version VARCHAR(16) NOT NULL,
        messages JSON NOT NULL, answer TEXT NOT NULL, detail JSON NOT NULL, created VARCHAR(32) NOT NULL,
        PRIMARY KEY (id), CONSTRAINT response_kind CHECK (kind IN ('chat', 'distribution')))""",
    """CREATE TABLE feedback (
        id VARCHAR(64) NOT NULL, response_id VARCHAR(64) NOT NULL, verdict VARCHAR(16) NOT NULL, correction TEXT,
        status VARCHAR(16) NOT NULL, reviewer VARCHAR(128), reason TEXT, created VARCHAR(32) NOT NULL,
        reviewed VARCHAR(32), manifest_id VARCHAR(64), PRIMARY KEY (id),
        CONSTRAINT feedback_verdict CHECK (verdict IN ('desirable', 'undesirable', 'correction')),
        CONSTRAINT feedback_correction CHECK ((verdict = 'correction') = (correction IS NOT NULL)),
        CONSTRAINT feedback_status CHECK (status IN ('quarantined', 'accepted', 'declined', 'used')),
        FOREIGN KEY(response_id) REFERENCES responses (id))""",
    "CREATE INDEX feedback_by_status ON feedback (status, created)",
    "CREATE INDEX ix_feedback_manifest_id ON feedback (manifest_id)",
    "CREATE INDEX ix_feedback_response_id ON feedback (response_id)",
    """CREATE TABLE idempotency (
        key VARCHAR(255) NOT NULL, body_sha256 VARCHAR(64) NOT NULL, answer JSON NOT NULL,
        created VARCHAR(32) NOT NULL, PRIMARY KEY (key))""",
    """CREATE TABLE manifests (
        id VARCHAR(64) NOT NULL, name VARCHAR(128) NOT NULL, sha256 VARCHAR(64) NOT NULL, status VARCHAR(16) NOT NULL,
        claimed_by VARCHAR(128) NOT NULL, lease_until VARCHAR(32) NOT NULL, created VARCHAR(32) NOT NULL,
        PRIMARY KEY (id), CONSTRAINT manifest_status CHECK (status IN ('claimed', 'used', 'released')))""",
    """CREATE TABLE manifest_items (
        manifest_id VARCHAR(64) NOT NULL, position INTEGER NOT NULL, feedback_id VARCHAR(64) NOT NULL,
        PRIMARY KEY (manifest_id, position), UNIQUE (manifest_id, feedback_id),
        FOREIGN KEY(manifest_id) REFERENCES manifests (id), FOREIGN KEY(feedback_id) REFERENCES feedback (id))""",
    "CREATE INDEX ix_manifest_items_feedback_id ON manifest_items (feedback_id)",
    """CREATE TABLE aliases (
        name VARCHAR(128) NOT NULL, alias VARCHAR(128) NOT NULL, version VARCHAR(16) NOT NULL, epoch INTEGER NOT NULL,
        PRIMARY KEY (name, alias))""",
    """CREATE TABLE alias_history (
        id {counter} NOT NULL, name VARCHAR(128) NOT NULL, alias VARCHAR(128) NOT NULL, kind VARCHAR(16) NOT NULL,
        from_version VARCHAR(16), to_version VARCHAR(16) NOT NULL, epoch INTEGER NOT NULL, who VARCHAR(128) NOT NULL,
        why TEXT NOT NULL, figures JSON NOT NULL, created VARCHAR(32) NOT NULL, PRIMARY KEY (id),
        CONSTRAINT history_kind CHECK (kind IN ('move', 'rollback')), UNIQUE (name, alias, epoch))""",
    """CREATE TABLE audit (
        id {counter} NOT NULL, created VARCHAR(32) NOT NULL, who VARCHAR(128) NOT NULL, event VARCHAR(64) NOT NULL,
        subject VARCHAR(128) NOT NULL, detail JSON NOT NULL, PRIMARY KEY (id))""",
)

_ROWS = (
    "INSERT INTO valuealign_schema VALUES (1)",
    """INSERT INTO responses VALUES ('chat-1', 'chat', 'demo', 'v1', '[["user", "Is it so?"]]', 'yes',
        '{"seed": 1}', '2026-01-01T00:00:00.000+00:00')""",
    """INSERT INTO feedback VALUES ('fb-1', 'chat-1', 'correction', 'no', 'used', 'ann', NULL,
        '2026-01-02T00:00:00.000+00:00', '2026-01-03T00:00:00.000+00:00', 'man-1')""",
    """INSERT INTO feedback VALUES ('fb-2', 'chat-1', 'desirable', NULL, 'quarantined', NULL, NULL,
        '2026-01-04T00:00:00.000+00:00', NULL, NULL)""",
    # The body's hash is that of ["chat-1", "correction", "no"].
    """INSERT INTO idempotency VALUES ('old-key', '363f341ce4dcf98d3de404eb9ad8ba17dde22a3a3699bc1f1500db406e4a60f0',
        '{"id": "fb-1", "response_id": "chat-1",
        "status": "quarantined", "created": "2026-01-02T00:00:00.000+00:00"}', '2026-01-02T00:00:00.000+00:00')""",
    """INSERT INTO manifests VALUES ('man-1', 'demo', 'f00d', 'used', 'update', '2026-01-03T00:00:00.000+00:00',
        '2026-01-03T00:00:00.000+00:00')""",
    "INSERT INTO manifest_items VALUES ('man-1', 0, 'fb-1')",
    "INSERT INTO aliases VALUES ('demo', 'champion', 'v2', 1)",
    """INSERT INTO alias_history (name, alias, kind, from_version, to_version, epoch, who, why, figures, created)
        VALUES ('demo', 'champion', 'move', NULL, 'v2', 1, 'update', 'start', '{"a": 1}',
        '2026-01-03T00:00:00.000+00:00')""",
    """INSERT INTO audit (created, who, event, subject, detail)
        VALUES ('2026-01-02T00:00:00.000+00:00', 'api', 'feedback.posted', 'fb-1', '{}')""",
)


def lay_first(url: str, *, rows: bool = True) -> None:
    """Make that database at a URL."""
    engine = create_engine(url)
    sqlite = engine.dialect.name == "sqlite"
    with engine.begin() as connection:
        for statement in _TABLES:
            connection.exec_driver_sql(statement.replace("{counter}", "INTEGER" if sqlite else "SERIAL"))
        for statement in _ROWS if rows else _ROWS[:1]:
            connection.exec_driver_sql(statement)
        for table in ("audit", "alias_history", "manifest_items"):
            for statement in _guards(table, sqlite):
                connection.exec_driver_sql(statement)
    engine.dispose()


def _guards(table: str, sqlite: bool) -> list[str]:
    """The triggers that keep the past."""
    statements = []
    for verb in ("UPDATE", "DELETE"):
        name = f"{table}_no_{verb.lower()}"
        if sqlite:
            statements.append(
                f"CREATE TRIGGER {name} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        else:
            statements.append(
                f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$; "
                f"CREATE TRIGGER {name} BEFORE {verb} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"
            )
    return statements

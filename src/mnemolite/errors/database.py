"""Errors of the database, its schema and its layout."""

from mnemolite.errors.root import MnemoliteError


class DatabaseError(MnemoliteError):
    """The database refused an operation."""

    code = "database_error"


class DatabaseUnavailableError(DatabaseError):
    """The database cannot be reached."""

    code = "database_unavailable"
    status = 503


class DatabaseBusyError(DatabaseError):
    """Every database connection is in use."""

    code = "database_busy"
    status = 503


class DatabaseReadOnlyError(DatabaseError):
    """The database refuses writes."""

    code = "database_read_only"
    status = 503
    usual_remedy = (
        "DATABASE_URL must lead to the primary: name all hosts, with "
        "target_session_attrs=read-write, so that it is found after a fail-over."
    )


class DatabaseFullError(DatabaseError):
    """The database has no room left."""

    code = "database_full"
    status = 507
    usual_remedy = (
        "Free some space where PostgreSQL keeps its data, or give it a larger disk; nothing of the "
        "request was stored, so send it again then."
    )


class DatabaseTimeoutError(DatabaseError):
    """The database took too long to answer."""

    code = "database_timeout"
    status = 503


class DatabaseConflictError(DatabaseError):
    """The operation collided with another one and can be tried again."""

    code = "database_conflict"
    status = 503


class DatabaseUnsuitableError(DatabaseError):
    """The database lacks something MnemoLite needs."""

    code = "database_unsuitable"


class SchemaTooNewError(DatabaseUnsuitableError):
    """The database was written by a newer MnemoLite."""

    code = "schema_too_new"


class LocalPostgresError(DatabaseError):
    """The embedded PostgreSQL could not be used."""

    code = "local_postgres_failed"


class DatabaseNotEmptyError(DatabaseError):
    """The database holds something already."""

    code = "database_not_empty"
    status = 409


class BackupError(DatabaseError):
    """The database could not be saved or restored."""

    code = "backup_failed"


class LayoutBusyError(MnemoliteError):
    """The layout of the database is being changed already."""

    code = "layout_busy"
    status = 409


class LayoutRefusedError(MnemoliteError):
    """The database does not allow this change of its layout."""

    code = "layout_refused"
    status = 409


class AdoptionError(DatabaseError):
    """The foreign database cannot be taken over like this."""

    code = "adoption_refused"
    status = 409

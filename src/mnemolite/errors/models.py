"""Errors of embedding models, of their spaces, and of rerankers."""

from mnemolite.errors.root import MnemoliteError


class EmbeddingError(MnemoliteError):
    """A text could not be embedded."""

    code = "embedding_failed"
    status = 503


class ModelUnavailableError(EmbeddingError):
    """The embedding model is not available."""

    code = "model_unavailable"


class ModelBusyError(ModelUnavailableError):
    """The embedding model has too much to do."""

    code = "model_busy"


class ModelMismatchError(EmbeddingError):
    """The embedding model is not the one this database was filled with."""

    code = "model_mismatch"


class EmbeddingAbandonedError(EmbeddingError):
    """The worker that was embedding the text ended before it was done."""

    code = "embedding_abandoned"


class SpaceChangeError(MnemoliteError):
    """The embedding spaces do not allow this change now."""

    code = "space_change_refused"
    status = 409


# No fault of a text: to embed another one would fail as well.
MODEL_FAULTS = (ModelUnavailableError, ModelMismatchError)


class RerankingError(MnemoliteError):
    """The hits could not be ordered anew."""

    code = "reranking_failed"
    status = 503


class RerankingTimeoutError(RerankingError):
    """The reranker took too long to answer."""

    code = "reranking_timeout"


class RerankerUnavailableError(RerankingError):
    """The reranker could not be loaded."""

    code = "reranker_unavailable"

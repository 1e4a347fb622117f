"""What a model's folder says about the model: window, pooling, prompts, further modules.

Read are the files that sentence-transformers writes; without them, those of the tokeniser and of
the network, and what is known of the family.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnemolite.embeddings.known_models import Pooling, known_model
from mnemolite.embeddings.tokens import Window
from mnemolite.errors import ModelUnavailableError, SettingsError

if TYPE_CHECKING:
    from mnemolite.settings import EmbeddingSettings

PACKAGED_MODEL = "all-MiniLM-L6-v2"
PACKAGED_FOLDER = Path(__file__).parent / "minilm"

# Larger windows cost memory by their square and make coarse passages; a setting goes up to them.
_DEFAULT_WINDOW = 2048
_REVISION_LENGTH = 16
_MODE = "pooling_mode_"
_POOLINGS: dict[str, Pooling] = {
    "mean": "mean",
    "mean_tokens": "mean",
    "cls": "cls",
    "cls_token": "cls",
    "lasttoken": "lasttoken",
}
_NAMED = "mean, CLS or last token"
# Networks that number positions from behind their padding token.
_SHIFTED_POSITIONS = {"roberta", "xlm-roberta", "camembert", "mpnet"}
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model, and the name by which the model is known."""

    name: str
    path: Path

    def files(self) -> list[str]:
        """The names of all files, with their folders inside this one."""
        files = (path for path in self.path.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.path).as_posix() for path in files)

    def sha256(self, name: str) -> str:
        """The digest of a file, in hexadecimal."""
        with (self.path / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def window(self, settings: "EmbeddingSettings", *, limit: int | None = None) -> Window:
        """The tokens and prefixes that settings, files and family agree on.

        ``limit`` is what the loaded model says it takes, where that is known.
        """
        query, document = self._prompts()
        return Window(
            max_tokens=self._max_tokens(settings.max_tokens, limit or self._own_limit()),
            query_prefix=query if settings.query_prefix is None else settings.query_prefix,
            document_prefix=document
            if settings.document_prefix is None
            else settings.document_prefix,
        )

    def pooling(self) -> Pooling:
        """How vectors of tokens become one; raises ModelUnavailableError for other ways."""
        modes = self.pooling_modes()
        if not modes:
            return known_model(self.name).pooling
        if len(modes) != 1 or modes[0] not in _POOLINGS:
            raise broken(self.path, f"it pools by {' and '.join(modes)}, not by {_NAMED}")
        if self._pooling_config().get("include_prompt") is False and any(self._prompts()):
            raise broken(self.path, "it pools without the prefix, which this provider cannot do")
        return _POOLINGS[modes[0]]

    def pooling_modes(self) -> list[str]:
        """The ways of pooling that the files name, in either form that the library writes."""
        config = self._pooling_config()
        if isinstance(config.get("pooling_mode"), str):
            return [config["pooling_mode"]]
        named = (name for name, on in config.items() if on is True)
        return [name.removeprefix(_MODE) for name in named if name.startswith(_MODE)]

    def further_modules(self) -> list[str]:
        """Modules behind the pooling that change a vector's direction, such as Dense."""
        plain = ("Transformer", "Pooling", "Normalize")
        types = (str(module.get("type")).rsplit(".", 1)[-1] for module in self._modules())
        return [kind for kind in types if kind not in plain]

    def _modules(self) -> list[dict[str, Any]]:
        modules = _read(self.path / "modules.json")
        return [module for module in modules if isinstance(module, dict)] if modules else []

    def _pooling_config(self) -> dict[str, Any]:
        paths = (m.get("path") for m in self._modules() if str(m.get("type")).endswith("Pooling"))
        return read_object(self.path / str(next(paths, "1_Pooling")) / "config.json")

    def _prompts(self) -> tuple[str, str]:
        """The prefixes that the files name, else those of the family."""
        prompts = read_object(self.path / "config_sentence_transformers.json").get("prompts")
        named = prompts if isinstance(prompts, dict) else {}
        query = named.get("query") or ""
        document = next((named[key] for key in _DOCUMENT_PROMPTS if named.get(key)), "")
        if query or document:
            return str(query), str(document)
        known = known_model(self.name)
        return known.query_prefix, known.document_prefix

    def _max_tokens(self, wanted: int | None, limit: int) -> int:
        if wanted is not None and wanted > limit:
            raise SettingsError(
                f"The model {self.name!r} takes {limit} tokens, not {wanted}.",
                field="MNEMO_EMBEDDING_MAX_TOKENS",
                remedy="Leave it unset or lower it.",
            )
        return wanted or min(limit, _DEFAULT_WINDOW)

    def _own_limit(self) -> int:
        """What sentence-transformers would use, else what tokeniser and network can take."""
        length = read_object(self.path / "sentence_bert_config.json").get("max_seq_length")
        if isinstance(length, int):
            return length
        network = read_object(self.path / "config.json")
        positions = network.get("max_position_embeddings") or network.get("n_positions")
        if positions and network.get("model_type") in _SHIFTED_POSITIONS:
            positions -= network.get("pad_token_id", 1) + 1
        tokenizer = read_object(self.path / "tokenizer_config.json").get("model_max_length")
        known = [
            int(length) for length in (tokenizer, positions) if isinstance(length, int | float)
        ]
        if not known:
            raise broken(self.path, "no file says how many tokens the model takes")
        return min(known)


def revision_of(digests: Sequence[str]) -> str:
    """The start of the SHA-256 of a model's only file, or of the digests of its files."""
    whole = digests[0] if len(digests) == 1 else _sha256("".join(digests))
    return whole[:_REVISION_LENGTH]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    content = _read(path)
    return content if isinstance(content, dict) else {}


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise broken(path.parent, f"{path.name} is not JSON") from error


def broken(folder: Path, reason: str) -> ModelUnavailableError:
    """The error that names a folder and what is wrong with it."""
    return ModelUnavailableError(
        f"The model folder {str(folder)!r} cannot be used: {reason}.", field="EMBEDDING_MODEL"
    )

"""Reading a model's folder: window, prefixes, pooling, modules, from its files and family."""

from pathlib import Path
from typing import Any

import pytest

from mnemolite.embeddings.model_folder import PACKAGED_FOLDER, PACKAGED_MODEL, ModelFolder
from mnemolite.errors import ModelUnavailableError, SettingsError
from mnemolite.settings import EmbeddingSettings
from tests.model_folders import NOMIC, NOMIC_FILES, write_files

DEFAULTS = EmbeddingSettings()


def folder_with(path: Path, name: str = "mine", **files: Any) -> ModelFolder:
    write_files(path, {f"{file}.json": content for file, content in files.items()})
    return ModelFolder(name, path)


def test_the_packaged_model() -> None:
    folder = ModelFolder(PACKAGED_MODEL, PACKAGED_FOLDER)
    window = folder.window(DEFAULTS)
    assert (window.max_tokens, window.query_prefix, window.document_prefix) == (256, "", "")
    assert folder.pooling() == "mean"
    assert folder.further_modules() == []


# --- Window -------------------------------------------------------------------------------------


def test_the_smaller_of_two_windows_counts_unless_the_library_has_one(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, config={"max_position_embeddings": 512})
    assert folder.window(DEFAULTS).max_tokens == 512
    folder_with(tmp_path, tokenizer_config={"model_max_length": 128})
    assert folder.window(DEFAULTS).max_tokens == 128
    folder_with(tmp_path, sentence_bert_config={"max_seq_length": 64})
    assert folder.window(DEFAULTS).max_tokens == 64


def test_networks_that_count_positions_from_their_padding_take_fewer_tokens(tmp_path: Path) -> None:
    config = {"max_position_embeddings": 514, "model_type": "xlm-roberta", "pad_token_id": 1}
    folder = folder_with(tmp_path, config=config, tokenizer_config={"model_max_length": 1e30})
    assert folder.window(DEFAULTS).max_tokens == 512


def test_a_large_window_is_used_whole_only_when_asked_for(tmp_path: Path) -> None:
    write_files(tmp_path, NOMIC_FILES)
    folder = ModelFolder(NOMIC, tmp_path)
    assert folder.window(DEFAULTS).max_tokens == 2048
    assert folder.window(EmbeddingSettings(max_tokens=8192)).max_tokens == 8192
    with pytest.raises(SettingsError, match="takes 8192 tokens, not 8193") as caught:
        folder.window(EmbeddingSettings(max_tokens=8193))
    assert caught.value.field == "MNEMO_EMBEDDING_MAX_TOKENS"


def test_a_folder_that_says_nothing_of_its_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="how many tokens"):
        folder_with(tmp_path, config={}).window(DEFAULTS)


# --- Prefixes -----------------------------------------------------------------------------------


def prefixes(folder: ModelFolder, **settings: Any) -> tuple[str, str]:
    window = folder.window(EmbeddingSettings(**settings))
    return window.query_prefix, window.document_prefix


def test_prefixes_of_the_family_give_way_to_the_files_and_these_to_settings(tmp_path: Path) -> None:
    write_files(tmp_path, NOMIC_FILES)
    folder = ModelFolder(NOMIC, tmp_path)
    assert prefixes(folder) == ("search_query: ", "search_document: ")
    folder_with(
        tmp_path, config_sentence_transformers={"prompts": {"query": "q: ", "passage": "p: "}}
    )
    assert prefixes(folder) == ("q: ", "p: ")
    assert prefixes(folder, query_prefix="mine: ", document_prefix="") == ("mine: ", "")


def test_empty_prompts_in_the_files_say_nothing(tmp_path: Path) -> None:
    write_files(tmp_path, NOMIC_FILES)
    folder_with(tmp_path, config_sentence_transformers={"prompts": {"query": "", "document": ""}})
    assert prefixes(ModelFolder(NOMIC, tmp_path)) == ("search_query: ", "search_document: ")


def test_a_query_prompt_alone_leaves_documents_bare(tmp_path: Path) -> None:
    write_files(tmp_path, NOMIC_FILES)
    folder_with(tmp_path, config_sentence_transformers={"prompts": {"query": "q: "}})
    assert prefixes(ModelFolder(NOMIC, tmp_path)) == ("q: ", "")


# --- Pooling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode_mean_tokens": True, "embedding_dimension": 3}, "mean"),
    ],
)
def test_pooling_is_read(tmp_path: Path, config: dict[str, Any], expected: str) -> None:
    write_files(tmp_path, {"1_Pooling/config.json": config})
    assert ModelFolder("mine", tmp_path).pooling() == expected


def test_pooling_is_found_where_the_list_of_modules_puts_it(tmp_path: Path) -> None:
    modules = [{"path": "pool", "type": "sentence_transformers.models.Pooling"}]
    write_files(tmp_path, {"pool/config.json": {"pooling_mode_cls_token": True}})
    assert folder_with(tmp_path, modules=modules).pooling() == "cls"


def test_without_a_file_the_family_is_asked(tmp_path: Path) -> None:
    assert ModelFolder("bge-small-en-v1.5", tmp_path).pooling() == "cls"
    assert ModelFolder("mine", tmp_path).pooling() == "mean"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pooling_mode_max_tokens": True}, "by max_tokens, not by mean, CLS or last token"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "and max_tokens"),
        ({"pooling_mode": "weightedmean"}, "by weightedmean"),
    ],
)
def test_other_pooling_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    write_files(tmp_path, {"1_Pooling/config.json": config})
    with pytest.raises(ModelUnavailableError, match=message):
        ModelFolder("mine", tmp_path).pooling()


def test_pooling_that_leaves_out_a_prefix_is_refused(tmp_path: Path) -> None:
    write_files(
        tmp_path, {"1_Pooling/config.json": {"pooling_mode": "mean", "include_prompt": False}}
    )
    assert ModelFolder("mine", tmp_path).pooling() == "mean"
    with pytest.raises(ModelUnavailableError, match="without the prefix"):
        ModelFolder("e5-base", tmp_path).pooling()


# --- Files --------------------------------------------------------------------------------------


def test_modules_that_turn_vectors_are_named(tmp_path: Path) -> None:
    modules = [*NOMIC_FILES["modules.json"], {"type": "sentence_transformers.models.Dense"}]
    assert folder_with(tmp_path, modules=modules).further_modules() == ["Dense"]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelUnavailableError, match=r"config\.json is not JSON"):
        ModelFolder("mine", tmp_path).window(DEFAULTS)

"""Model folders in the layout of a hub's repository, with small random weights."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from mnemolite.embeddings.model_folder import PACKAGED_FOLDER

VOCABULARY, INNER, WIDTH = 30_522, 8, 768
NOMIC = "nomic-ai/nomic-embed-text-v1.5"

# What the files of nomic-embed-text-v1.5 say, as far as it is read.
NOMIC_FILES: dict[str, Any] = {
    "config.json": {"model_type": "nomic_bert", "n_embd": WIDTH, "n_positions": 8192},
    "tokenizer_config.json": {"model_max_length": 8192, "tokenizer_class": "BertTokenizer"},
    "sentence_bert_config.json": {"max_seq_length": 8192, "do_lower_case": False},
    "config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": None},
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ],
    "1_Pooling/config.json": {
        "word_embedding_dimension": WIDTH,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    },
}


def write_nomic(folder: Path) -> Path:
    """A folder laid out like nomic-embed-text-v1.5: its files, its tokeniser, two graphs."""
    (folder / "onnx").mkdir(parents=True)
    write_files(folder, NOMIC_FILES)
    shutil.copyfile(PACKAGED_FOLDER / "tokenizer.json", folder / "tokenizer.json")
    write_graphs(folder / "onnx")
    return folder


def write_files(folder: Path, files: Mapping[str, Any]) -> None:
    """JSON files under a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))


def write_graphs(folder: Path) -> None:
    """``model.onnx`` in fp32, and ``model_quantized.onnx``: the same in dynamic int8."""
    onnx.save(make_graph(), folder / "model.onnx")
    quantize_dynamic(
        folder / "model.onnx", folder / "model_quantized.onnx", weight_type=QuantType.QInt8
    )


def make_graph(inputs: tuple[str, ...] = ("token_type_ids",)) -> Any:
    """A network that gives one vector for each token, from the token alone."""
    random = np.random.default_rng(7)
    shapes = {"words": (VOCABULARY, INNER), "first": (INNER, 64), "second": (64, WIDTH)}
    weights = [
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["looked_up"]),
        helper.make_node("MatMul", ["looked_up", "first"], ["mixed"]),
        helper.make_node("Tanh", ["mixed"], ["bent"]),
        helper.make_node("MatMul", ["bent", "second"], ["last_hidden_state"]),
    ]
    named = ("input_ids", "attention_mask", *inputs)
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in named],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "t", WIDTH])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_cache(home: Path, folder: Path, *, model: str = NOMIC, commit: str = "c" * 40) -> Path:
    """Lay a folder out as the hub's cache does; the place of the snapshot."""
    repository = home / "hub" / f"models--{model.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return snapshot

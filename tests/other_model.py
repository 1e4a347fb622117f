"""A second real model for tests and benchmarks: the packaged one with a projection behind it."""

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mnemolite.embeddings import model_folder


def build_projected_model(folder: Path, *, dimension: int = 256) -> Path:
    """Write a folder with the packaged model whose vectors are turned into fewer dimensions.

    The projection is onto orthonormal directions chosen at random, so that cosines are kept about:
    a model of its own, of another dimension, a little worse than the first.
    """
    source = Path(model_folder.__file__).parent / "minilm"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.onnx", "SHA256SUMS"))
    model = onnx.load(source / "model.onnx")
    (output,) = model.graph.output
    full = output.type.tensor_type.shape.dim[1].dim_value
    numbers = np.random.default_rng(7).standard_normal((full, dimension))
    directions, _ = np.linalg.qr(numbers)
    weights = numpy_helper.from_array(directions.astype(np.float32), "projection")
    model.graph.initializer.append(weights)
    model.graph.node.append(helper.make_node("MatMul", [output.name, "projection"], ["projected"]))
    shape = [output.type.tensor_type.shape.dim[0].dim_param or None, dimension]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("projected", TensorProto.FLOAT, shape))
    onnx.save(model, folder / "model.onnx")
    return folder

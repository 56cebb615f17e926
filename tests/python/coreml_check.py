#!/usr/bin/env python3
"""Checks Core ML packages with Apple's coremltools, on any system: no Mac is needed, and nothing is run on one.

    python coreml_check.py PACKAGE...                                     check each; one JSON line each
    python coreml_check.py PACKAGE --run IN.safetensors --out OUT.safetensors    check it, then evaluate it
    python coreml_check.py --self-test PACKAGE...                         damage each in many ways; every one must be found

Exits with 1 if a package is at fault. The evaluation is NumPy over the program as coremltools decodes it, so it shares
nothing with the writer: f32 operations in f32, f16 ones computed in f32 and rounded.

Needs what requirements.txt beside it pins; tried with Python 3.11.
"""

import argparse
import copy
import json
import logging
import math
import os
import re
import shutil
import struct
import sys
import tempfile
import uuid
import warnings

import numpy as np

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import coremltools as ct  # noqa: E402
from coremltools.converters.mil.frontend.milproto import load as milproto  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry  # noqa: E402
from coremltools.proto import FeatureTypes_pb2, MIL_pb2, Model_pb2  # noqa: E402

OPSETS = {7: "CoreML6", 8: "CoreML7", 9: "CoreML8"}
RESERVED = set(
    "any bool program func tensor list dict tuple true false string bf16 fp16 fp32 fp64 int8 int16 int32 int64"
    " uint8 uint16 uint32 uint64 state".split()
)
# Optional parameters that have no default: leaving them out is how one says that there is none.
MAY_BE_MISSING = {("linear", "bias"), ("conv", "bias"), ("layer_norm", "gamma"), ("layer_norm", "beta"), ("split", "split_sizes"),
                  ("quantize", "zero_point"), ("quantize", "axis"), ("dequantize", "zero_point"), ("dequantize", "axis"),
                  ("constexpr_blockwise_shift_scale", "offset"), ("constexpr_lut_to_dense", "vector_axis")}
# Number in the weight file -> type in the program, bits.
BLOB_TYPES = {
    1: (MIL_pb2.FLOAT16, 16), 2: (MIL_pb2.FLOAT32, 32), 3: (MIL_pb2.UINT8, 8), 4: (MIL_pb2.INT8, 8), 8: (MIL_pb2.INT4, 4),
    10: (MIL_pb2.UINT2, 2), 11: (MIL_pb2.UINT4, 4), 12: (MIL_pb2.UINT3, 3), 13: (MIL_pb2.UINT6, 6),
}
# The field of an immediate value by its type.
FIELDS = {
    MIL_pb2.FLOAT32: "floats", MIL_pb2.FLOAT16: "bytes", MIL_pb2.INT32: "ints", MIL_pb2.BOOL: "bools", MIL_pb2.STRING: "strings",
    MIL_pb2.UINT32: "bytes",
}
ARRAY_TYPES = {
    FeatureTypes_pb2.ArrayFeatureType.FLOAT32: MIL_pb2.FLOAT32,
    FeatureTypes_pb2.ArrayFeatureType.FLOAT16: MIL_pb2.FLOAT16,
    FeatureTypes_pb2.ArrayFeatureType.INT32: MIL_pb2.INT32,
}


class Fault(Exception):
    """What is wrong with a package."""


def require(condition, message):
    if not condition:
        raise Fault(message)


# --- the package ---------------------------------------------------------------------------------------------------


def check_manifest(package):
    """Checks the manifest and that it lists every file; the paths of the model and the folder of the weights."""
    try:
        with open(os.path.join(package, "Manifest.json"), encoding="utf-8") as file:
            manifest = json.load(file)
    except (OSError, ValueError) as error:
        raise Fault(f"Manifest.json: {error}") from error
    require(manifest.get("fileFormatVersion") == "1.0.0", "the manifest's fileFormatVersion is not 1.0.0")
    items = manifest.get("itemInfoEntries", {})
    for identifier, item in items.items():
        require(str(uuid.UUID(identifier)) == identifier, f"{identifier} is no UUID")
        require(set(item) == {"path", "name", "author", "description"}, f"item {identifier} has other fields")
        require(item["path"] == f"{item['author']}/{item['name']}", f"{item['path']} is not author/name")
        require(os.path.exists(os.path.join(package, "Data", item["path"])), f"{item['path']} is missing")
    root = items.get(manifest.get("rootModelIdentifier"))
    require(root is not None, "the manifest has no root model")
    listed = [os.path.join(package, "Data", item["path"]) for item in items.values()]
    for folder, _, names in os.walk(package):
        for name in names:
            path = os.path.join(folder, name)
            in_item = any(path == item or path.startswith(item + os.sep) for item in listed)
            require(in_item or path == os.path.join(package, "Manifest.json"), f"the manifest does not list {path}")
    model = os.path.join(package, "Data", root["path"])
    return model, os.path.join(os.path.dirname(model), "weights")


def read_blobs(path):
    """The blobs of a MILBlob v2 file: offset of the metadata -> (type, bytes)."""
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        header = file.read(64)
        require(len(header) == 64, "weight.bin has no header")
        count, version = struct.unpack("<II", header[:8])
        require(version == 2 and not any(header[8:]), f"weight.bin is of version {version}")
        blobs, end = {}, 64
        for number in range(count):
            at = (end + 63) // 64 * 64
            file.seek(end)
            require(not any(file.read(at - end)), f"the gap before blob {number} is not zero")
            record = file.read(64)
            require(len(record) == 64, f"blob {number} has no metadata")
            sentinel, kind, size, start, padding = struct.unpack("<IIQQQ", record[:32])
            require(sentinel == 0xDEADBEEF, f"blob {number} has no sentinel at {at}")
            require(kind in BLOB_TYPES, f"blob {number} is of type {kind}")
            require(start == at + 64 and start % 64 == 0, f"blob {number} starts at {start}, its metadata is at {at}")
            require(not any(record[32:]), f"blob {number} uses reserved bytes")
            require(size > 0 and start + size <= length, f"blob {number} ends behind the file")
            of_program, bits = BLOB_TYPES[kind]
            require(padding < 8 and (bits < 8 or padding == 0), f"blob {number} has {padding} bits of padding")
            require((8 * size - padding) % bits == 0, f"blob {number} ends within a number")
            blobs[at] = ((of_program, (8 * size - padding) // bits), size)
            end = start + size
        require(end == length, f"weight.bin has {length} bytes, its blobs end at {end}")
    return blobs


# --- the program ---------------------------------------------------------------------------------------------------


def tensor_of(value_type, what):
    require(value_type.WhichOneof("type") == "tensorType", f"{what} is no tensor")
    tensor = value_type.tensorType
    require(tensor.rank == len(tensor.dimensions), f"{what} is of rank {tensor.rank}, it has {len(tensor.dimensions)} sizes")
    require(not tensor.attributes, f"{what}: its type has attributes")
    for dimension in tensor.dimensions:
        require(dimension.WhichOneof("dimension") == "constant", f"{what} has an unknown size")
    return tensor.dataType, [dimension.constant.size for dimension in tensor.dimensions]


def check_value(value, what, blobs, used):
    """Checks that a value fills its type, in the field of that type or in a blob."""
    kind, shape = tensor_of(value.type, what)
    count = math.prod(shape)
    require(not value.docString, f"{what} has a docString")
    if value.WhichOneof("value") == "blobFileValue":
        blob = value.blobFileValue
        require(blob.fileName == "@model_path/weights/weight.bin", f"{what} is in {blob.fileName}")
        require(blob.offset in blobs, f"{what}: there is no blob's metadata at {blob.offset}")
        require((kind, count) == blobs[blob.offset][0], f"{what} is not what its blob at {blob.offset} is")
        used.add(blob.offset)
        return
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    require(field == FIELDS.get(kind), f"{what}: its numbers are in `{field}`, its type has them in `{FIELDS.get(kind)}`")
    numbers = len(getattr(tensor, field).values)
    size_of_one = {MIL_pb2.FLOAT16: 2, MIL_pb2.UINT32: 4}.get(kind, 1)
    require(numbers == count * size_of_one, f"{what} has {numbers} numbers for {shape}")
    require(count < 10 or field in ("ints", "bools"), f"{what} has {count} numbers in the model file")


def check_name(name, names):
    require(re.fullmatch("[A-Za-z_][A-Za-z0-9_@]*", name), f"`{name}` is no identifier")
    require(name not in RESERVED, f"`{name}` is a word of MIL")
    require(name not in names, f"{name} is made twice")
    names.add(name)


def check_operation(operation, names, blobs, used, version):
    what = f"{operation.type} {operation.outputs[0].name if operation.outputs else '?'}"
    constexpr = operation.type.startswith("constexpr_")
    # Up to iOS 17 a weight's codes and scales are attributes, then literals.
    in_attributes = constexpr and version < 9
    declared = parameters(operation.type, version) if operation.type != "const" else []
    attributes = {"name", "val"} if operation.type == "const" else {"name"} | set(declared if in_attributes else [])
    require(set(operation.attributes) == attributes, f"{what} has the attributes {sorted(operation.attributes)}")
    require(not operation.blocks, f"{what} has blocks")
    for name, value in operation.attributes.items():
        check_value(value, f"{what}, attribute {name}", blobs, used)
    if operation.type == "const":
        require(operation.attributes["val"].type == operation.outputs[0].type, f"{what}: value and output differ in type")
    elif not in_attributes:
        for parameter in declared:
            written = parameter in operation.inputs or (operation.type, parameter) in MAY_BE_MISSING
            require(written, f"{what} does not write {parameter}")
        for parameter in operation.inputs:
            require(parameter in declared, f"{what} has a parameter {parameter} that its opset does not know")
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if constexpr:
                require(binding.WhichOneof("binding") == "value", f"{what} binds a name")
                check_value(binding.value, what, blobs, used)
                continue
            require(binding.WhichOneof("binding") == "name", f"{what} binds a literal")
            require(binding.name in names, f"{what} uses {binding.name} before it is made")
    if constexpr:
        check_decompressed(operation, what, in_attributes)
    for output in operation.outputs:
        tensor_of(output.type, output.name)
        check_name(output.name, names)


def check_decompressed(operation, what, in_attributes):
    """What a weight of codes is declared as, which the loader does not compare: sizes of the codes, the type of scales or tables."""
    def given(name):
        return operation.attributes[name] if in_attributes else operation.inputs[name].arguments[0].value

    has = operation.attributes if in_attributes else operation.inputs
    kind, _ = tensor_of(given("lut" if "lut" in has else "scale").type, what)
    if "shape" in has:
        shape = list(struct.iter_unpack("<I", given("shape").immediateValue.tensor.bytes.values))
        shape = [size for size, in shape]
    else:
        codes = next(name for name in ("quantized_data", "data", "indices") if name in has)
        shape = tensor_of(given(codes).type, what)[1]
    require(len(operation.outputs) == 1, f"{what} has {len(operation.outputs)} outputs")
    declared = tensor_of(operation.outputs[0].type, what)
    require(declared == (kind, shape), f"{what} is declared as {declared}, its codes give {(kind, shape)}")


def parameters(op_type, version):
    """The parameters that an operation has in the opset of a specification version."""
    target = {7: ct.target.iOS16, 8: ct.target.iOS17, 9: ct.target.iOS18}[version]
    versions = SSAOpRegistry.core_ops.get(op_type, {})
    known = [one for one in versions if one <= target]
    require(known, f"there is no operation {op_type} in specification version {version}")
    return versions[max(known)].input_spec.input_types


def check_program(spec, blobs):
    """Checks what coremltools' loader does not; the number of constants that lie in the weight file."""
    version = spec.specificationVersion
    require(version in OPSETS, f"the specification version is {version}")
    require(spec.WhichOneof("Type") == "mlProgram" and spec.mlProgram.version == 1, "it is no ML Program of version 1")
    require(set(spec.mlProgram.functions) == {"main"}, f"its functions are {sorted(spec.mlProgram.functions)}")
    function = spec.mlProgram.functions["main"]
    require(function.opset == OPSETS[version], f"its opset is {function.opset}, its specification version is {version}")
    require(set(function.block_specializations) == {function.opset}, "it has other blocks than that of its opset")
    block = function.block_specializations[function.opset]
    require(not block.inputs and not block.attributes and not function.attributes, "its function has attributes")
    names, used = set(), set()
    for port in function.inputs:
        check_name(port.name, names)
    for operation in block.operations:
        check_operation(operation, names, blobs, used, version)
    require(used == set(blobs), f"{len(set(blobs) - used)} blobs are named by no constant")
    check_description(spec, function, block)


def check_description(spec, function, block):
    """The description has the function's inputs and outputs: names, order, sizes, types."""
    made = {output.name: output.type for operation in block.operations for output in operation.outputs}
    for name in block.outputs:
        require(name in made, f"the output {name} is made by no operation")
    ports = [(port.name, *tensor_of(port.type, port.name)) for port in function.inputs]
    results = [(name, *tensor_of(made[name], name)) for name in block.outputs]
    require(results, "it has no outputs")
    for what, features, expected in (("inputs", spec.description.input, ports), ("outputs", spec.description.output, results)):
        described = []
        for feature in features:
            array = feature.type.multiArrayType
            require(feature.type.WhichOneof("Type") == "multiArrayType", f"{feature.name} is no array")
            require(array.dataType in ARRAY_TYPES, f"{feature.name} is of an unknown type")
            described.append((feature.name, ARRAY_TYPES[array.dataType], list(array.shape)))
        require(described == expected, f"the description's {what} are {described}, the function's {expected}")
    require(not spec.description.functions and not spec.description.defaultFunctionName, "it describes functions")


def load_program(spec, weights):
    """The program as coremltools rebuilds it: it infers each type and compares it with the declared one."""
    try:
        program = milproto.load(spec, spec.specificationVersion, weights)
        program.validate()
        program._check_early_error_out_for_invalid_program()
    except Exception as error:  # it raises many kinds
        raise Fault(f"coremltools refuses it: {type(error).__name__}: {error}") from error
    return program


def open_package(package):
    """Opens a package as an app's tools do. coremltools writes the manifest of what it opens anew: it gets one of its own."""
    with tempfile.TemporaryDirectory() as folder:
        stand_in = os.path.join(folder, os.path.basename(os.path.normpath(package)))
        os.mkdir(stand_in)
        shutil.copy(os.path.join(package, "Manifest.json"), stand_in)
        os.symlink(os.path.abspath(os.path.join(package, "Data")), os.path.join(stand_in, "Data"))
        ct.models.MLModel(stand_in, skip_model_load=True)


def check(package):
    """Checks a package; its program and what is said of it."""
    model, weights = check_manifest(package)
    spec = Model_pb2.Model()
    try:
        with open(model, "rb") as file:
            spec.ParseFromString(file.read())
    except Exception as error:
        raise Fault(f"model.mlmodel: {error}") from error
    try:
        blobs = read_blobs(os.path.join(weights, "weight.bin"))
    except OSError as error:
        raise Fault(f"weight.bin: {error}") from error
    check_program(spec, blobs)
    program = load_program(spec, weights)
    try:
        open_package(package)
    except Exception as error:
        raise Fault(f"coremltools cannot open it: {error}") from error
    counts = {}
    for operation in program.functions["main"].operations:
        counts[operation.op_type] = counts.get(operation.op_type, 0) + 1
    facts = {
        "specification": spec.specificationVersion,
        "ops": dict(sorted(counts.items())),
        "weights": len(blobs),
        "weight_bytes": sum(size for _, size in blobs.values()),
    }
    return program, facts


# --- evaluation ----------------------------------------------------------------------------------------------------


def conv(x, weight, strides, pad, pad_type, dilations, groups, bias=None):
    if pad_type == "custom":
        x = np.pad(x, [(0, 0), (0, 0), (pad[0], pad[1]), (pad[2], pad[3])])
    require(list(dilations) == [1, 1], "dilated convolutions are not evaluated")
    out, part, rows, cols = weight.shape
    height, width = (x.shape[2] - rows) // strides[0] + 1, (x.shape[3] - cols) // strides[1] + 1
    x = x.reshape(x.shape[0], groups, part, *x.shape[2:])
    weight = weight.reshape(groups, out // groups, part, rows, cols)
    y = np.zeros((x.shape[0], groups, out // groups, height, width), np.float32)
    for row in range(rows):
        for col in range(cols):
            window = x[..., row : row + height * strides[0] : strides[0], col : col + width * strides[1] : strides[1]]
            y += np.einsum("bgchw,goc->bgohw", window[..., :height, :width], weight[..., row, col], optimize=True)
    y = y.reshape(x.shape[0], out, height, width)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def layer_norm(x, axes, epsilon, gamma=None, beta=None):
    axes = tuple(axes)
    shape = [size if axis in axes or axis - x.ndim in axes else 1 for axis, size in enumerate(x.shape)]
    centred = x - x.mean(axes, keepdims=True)
    y = centred / np.sqrt((centred * centred).mean(axes, keepdims=True) + epsilon)
    y = y if gamma is None else y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def gelu(x, mode):
    if mode == "EXACT":
        return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float32])(x / np.sqrt(np.float32(2))))
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)))
    return x * sigmoid(np.float32(1.702) * x)


def sigmoid(x):
    return np.float32(1) / (1 + np.exp(-x))


def softmax(x, axis):
    exp = np.exp(x - x.max(axis, keepdims=True))
    return exp / exp.sum(axis, keepdims=True)


def slice_by_index(x, begin, end, stride, begin_mask, end_mask, squeeze_mask):
    require(not any(squeeze_mask), "slices that drop axes are not evaluated")
    bounds = zip(begin, end, stride, begin_mask, end_mask)
    return x[tuple(slice(None if first else b, None if last else e, s) for b, e, s, first, last in bounds)]


def gather(x, indices, axis, batch_dims, validate_indices=False):
    require(batch_dims == 0, "batched gathers are not evaluated")
    require(((indices >= 0) & (indices < x.shape[axis])).all(), "gather has an index outside its table")
    return np.take(x, indices, axis)


def matmul(x, y, transpose_x, transpose_y):
    x = np.swapaxes(x, -1, -2) if transpose_x else x
    return np.matmul(x, np.swapaxes(y, -1, -2) if transpose_y else y)


def reshape(x, shape):
    require(all(size > 0 for size in shape), "a reshape with 0 or -1 is not evaluated")
    return x.reshape(shape)


OPS = {
    "linear": lambda x, weight, bias=None: np.matmul(x, weight.T) + (0 if bias is None else bias),
    "matmul": matmul,
    "conv": conv,
    "gather": gather,
    "layer_norm": layer_norm,
    "gelu": gelu,
    "silu": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "tanh": lambda x: np.tanh(x),
    "relu": lambda x: np.maximum(x, 0),
    "sin": lambda x: np.sin(x),
    "cos": lambda x: np.cos(x),
    "rsqrt": lambda x, epsilon: 1 / np.sqrt(x + epsilon),
    "softmax": softmax,
    "reduce_mean": lambda x, axes, keep_dims: x.mean(tuple(axes), keepdims=bool(keep_dims)),
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "concat": lambda values, axis, interleave: np.concatenate(values, axis),
    "split": lambda x, num_splits, axis: np.split(x, num_splits, axis),
    "slice_by_index": slice_by_index,
    "transpose": lambda x, perm: np.transpose(x, perm),
    "reshape": reshape,
    "upsample_nearest_neighbor": lambda x, scale_factor_height, scale_factor_width: np.repeat(
        np.repeat(x, scale_factor_height, -2), scale_factor_width, -1
    ),
    "cast": lambda x, dtype: x.astype({"fp16": np.float16, "fp32": np.float32, "int32": np.int32}[dtype]),
    "quantize": lambda input, scale, output_dtype: np.clip(np.rint(input / scale), -128, 127),
    "dequantize": lambda input, scale: input.astype(np.float32) * scale,
    "identity": lambda x: x,
}


def evaluate(program, feeds):
    """Runs a program on named arrays; its outputs by name."""
    function = program.functions["main"]
    values = {}
    for name, var in function.inputs.items():
        require(name in feeds, f"there is no input {name}")
        array, expected = feeds[name], types.nptype_from_builtin(var.dtype)
        require(array.shape == tuple(var.shape), f"{name} is {array.shape}, expected {tuple(var.shape)}")
        require(array.dtype == expected, f"{name} is {array.dtype}, expected {np.dtype(expected)}")
        values[var] = array
    last_use = {}
    for place, operation in enumerate(function.operations):
        last_use.update(dict.fromkeys(operands(operation), place))
    for place, operation in enumerate(function.operations):
        if operation.op_type == "const":
            values[operation.outputs[0]] = operation.outputs[0].val
            continue
        if operation.op_type.startswith("constexpr_"):
            # coremltools' own decompression.
            values[operation.outputs[0]] = decompressed(operation)
            continue
        results = evaluate_one(operation, values)
        for var, result in zip(operation.outputs, results if isinstance(results, list) else [results]):
            result = np.asarray(result).astype(types.nptype_from_builtin(var.dtype))
            require(result.shape == tuple(var.shape), f"{operation.op_type} {var.name} gave {result.shape}")
            values[var] = result
        for var in set(operands(operation)):
            if last_use[var] == place and var not in function.outputs:
                del values[var]
    return {var.name: np.ascontiguousarray(values[var]) for var in function.outputs}


def decompressed(operation):
    """The numbers of a weight that is stored as codes, of the type and the sizes that are declared."""
    var = operation.outputs[0]
    weight = np.asarray(operation.materialized_val_inference())
    expected = types.nptype_from_builtin(var.dtype)
    require(weight.dtype == expected and weight.shape == tuple(var.shape), f"{var.name} is {weight.dtype}{weight.shape}")
    return weight


def operands(operation):
    lists = [var if isinstance(var, (list, tuple)) else [var] for var in operation.inputs.values()]
    return [var for some in lists for var in some if var is not None]


def evaluate_one(operation, values):
    """What an operation gives, f16 operands widened to f32; its caller rounds."""
    op_type = operation.op_type
    require(op_type in OPS, f"{op_type} is not evaluated")

    def widened(var):
        value = values[var]
        half = op_type != "cast" and getattr(value, "dtype", None) == np.float16
        return np.asarray(value, np.float32) if half else value

    inputs = {}
    for name, var in operation.inputs.items():
        if var is not None:
            inputs[name] = [widened(one) for one in var] if isinstance(var, (list, tuple)) else widened(var)
    return OPS[op_type](**inputs)


def run(program, source, target):
    from safetensors.numpy import load_file, save_file

    save_file(evaluate(program, load_file(source)), target)


# --- does the check find faults? -----------------------------------------------------------------------------------


def damages():
    """Named ways to damage a package: a function of the model and the bytes of the weight file."""

    def block(spec):
        function = spec.mlProgram.functions["main"]
        return function.block_specializations[function.opset]

    def first(spec, wanted):
        return next((operation for operation in block(spec).operations if wanted(operation)), None)

    def real(operation):
        return operation.type != "const"

    def result_type(spec, weights):
        tensor = first(spec, real).outputs[0].type.tensorType
        tensor.dataType = MIL_pb2.INT32 if tensor.dataType != MIL_pb2.INT32 else MIL_pb2.FLOAT32

    def result_size(spec, weights):
        first(spec, real).outputs[0].type.tensorType.dimensions[0].constant.size += 1

    def weight_type(spec, weights):
        struct.pack_into("<I", weights, 68, struct.unpack_from("<I", weights, 68)[0] % 2 + 1)

    def drop_parameter(spec, weights):
        operation = first(spec, lambda operation: real(operation) and len(operation.inputs) > 1)
        del operation.inputs[sorted(name for name in operation.inputs if (operation.type, name) not in MAY_BE_MISSING)[0]]

    def offset(spec, weights):
        values = (value for operation in block(spec).operations for value in operation.attributes.values())
        next(value for value in values if value.WhichOneof("value") == "blobFileValue").blobFileValue.offset += 64

    def swap(spec, weights):
        operations = block(spec).operations
        moved = copy.deepcopy(operations[0])
        del operations[0]
        operations.append(moved)

    def twice(spec, weights):
        constants = [operation for operation in block(spec).operations if operation.type == "const"]
        constants[-1].outputs[0].name = constants[0].outputs[0].name

    def rename_output(spec, weights):
        spec.description.output[0].name += "_other"

    def describe_type(spec, weights):
        array = spec.description.input[0].type.multiArrayType
        array.dataType = FeatureTypes_pb2.ArrayFeatureType.DOUBLE

    def wrong_opset(spec, weights):
        spec.specificationVersion = 10 if spec.specificationVersion == 9 else spec.specificationVersion + 1

    def unknown_op(spec, weights):
        first(spec, real).type = "no_such_op"

    def attribute(spec, weights):
        first(spec, real).attributes["other"].CopyFrom(first(spec, real).attributes["name"])

    def sentinel(spec, weights):
        weights[64] ^= 1

    def cut(spec, weights):
        del weights[-1:]

    def longer(spec, weights):
        weights.append(0)

    def size(spec, weights):
        struct.pack_into("<Q", weights, 72, struct.unpack_from("<Q", weights, 72)[0] - 2)

    return [
        result_type, result_size, drop_parameter, swap, twice, rename_output, describe_type, wrong_opset, unknown_op, attribute, cut,
        longer,
    ], [weight_type, offset, sentinel, size]


def self_test(package):
    """Every damage of a package must be found; the number of damages."""
    always, with_weights = damages()
    model, weights = check_manifest(package)
    tried = 0
    for damage in always + (with_weights if check(package)[1]["weights"] else []):
        with tempfile.TemporaryDirectory() as folder:
            damaged = os.path.join(folder, os.path.basename(os.path.normpath(package)))
            shutil.copytree(package, damaged)
            paths = [os.path.join(damaged, os.path.relpath(path, package)) for path in (model, os.path.join(weights, "weight.bin"))]
            spec = Model_pb2.Model()
            with open(paths[0], "rb") as file:
                spec.ParseFromString(file.read())
            with open(paths[1], "rb") as file:
                blob_bytes = bytearray(file.read())
            before = (spec.SerializeToString(deterministic=True), bytes(blob_bytes))
            try:
                damage(spec, blob_bytes)
            except (AttributeError, IndexError, StopIteration):
                continue  # this package has nothing of the kind
            if (spec.SerializeToString(deterministic=True), bytes(blob_bytes)) == before:
                continue
            with open(paths[0], "wb") as file:
                file.write(spec.SerializeToString())
            with open(paths[1], "wb") as file:
                file.write(blob_bytes)
            tried += 1
            try:
                check(damaged)
            except Fault:
                continue
            raise Fault(f"the damage `{damage.__name__}` was not found")
    return tried


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="*", metavar="PACKAGE")
    parser.add_argument("--jobs", metavar="JSON", help="a list of {artifact, inputs, outputs}: check each and evaluate it")
    parser.add_argument("--run", metavar="INPUTS", help="a safetensors file of inputs to evaluate the package on")
    parser.add_argument("--out", metavar="OUTPUTS", help="where the outputs go")
    parser.add_argument("--self-test", action="store_true", help="damage copies of the packages; each fault must be found")
    arguments = parser.parse_args()
    if bool(arguments.run) != bool(arguments.out) or (arguments.run and len(arguments.packages) != 1):
        parser.error("--run and --out belong together, with one package")
    jobs = [(package, arguments.run, arguments.out) for package in arguments.packages]
    if arguments.jobs:
        with open(arguments.jobs, encoding="utf-8") as file:
            jobs += [(job["artifact"], job["inputs"], job["outputs"]) for job in json.load(file)]
    if not jobs:
        parser.error("no package is named")
    failed = False
    for package, inputs, outputs in jobs:
        line = {"package": package, "ok": True}
        try:
            if arguments.self_test:
                line["damages"] = self_test(package)
            else:
                program, facts = check(package)
                line.update(facts)
                if inputs:
                    run(program, inputs, outputs)
        except Exception as error:  # a damaged package can break anything on the way
            reason = str(error) if isinstance(error, Fault) else f"{type(error).__name__}: {error}"
            line = {"package": package, "ok": False, "reason": reason}
            failed = True
        print(json.dumps(line), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

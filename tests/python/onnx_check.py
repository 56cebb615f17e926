"""Checks folders that `snapc compile --target onnx` wrote, with the `onnx` package and ONNX Runtime (CPU).

    python onnx_check.py FOLDER...
    python onnx_check.py FOLDER --run inputs.safetensors --out outputs.safetensors

Prints one JSON line a folder. A fault is a line with `error`, and the exit code is then 1.
With --run the session is run on the tensors of that file, named as the model's inputs, and its outputs are written.

    pip install onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 safetensors==0.8.0
"""

import argparse
import json
import os
import sys

import numpy
import onnx
import onnxruntime
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo
from safetensors.numpy import load_file, save_file

OPSET, IR_VERSION = 21, 10
DATA_FILE = "model.onnx_data"
SMALLEST_EXTERNAL = 1024
LARGE, ALIGN_LARGE, ALIGN_SMALL = 1 << 20, 1 << 16, 1 << 12
TYPES = {TensorProto.FLOAT: "tensor(float)", TensorProto.FLOAT16: "tensor(float16)", TensorProto.INT32: "tensor(int32)"}


class Fault(Exception):
    """What is wrong with a folder."""


def require(condition, message):
    if not condition:
        raise Fault(message)


def ports(values):
    """Name, element type and sizes of inputs or outputs."""
    found = []
    for value in values:
        tensor = value.type.tensor_type
        require(tensor.HasField("shape"), f"{value.name} has no shape")
        require(all(dim.HasField("dim_value") for dim in tensor.shape.dim), f"{value.name} has an open size")
        found.append((value.name, tensor.elem_type, [dim.dim_value for dim in tensor.shape.dim]))
    return found


def check_header(model):
    require(model.ir_version == IR_VERSION, f"IR version {model.ir_version}")
    imports = [(opset.domain, opset.version) for opset in model.opset_import]
    require(imports == [("", OPSET)], f"opsets {imports}")
    require(model.producer_name == "snapc" and model.producer_version, "no producer")
    for node in model.graph.node:
        require(node.domain == "", f"{node.name} is of the domain {node.domain}")
    names = [node.name for node in model.graph.node]
    require(all(names) and len(set(names)) == len(names), "node names are missing or not unique")


def check_data(model, folder):
    """External data: one file, aligned, its regions equal or apart. Gives its length."""
    regions = set()
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            small = len(tensor.raw_data) < SMALLEST_EXTERNAL or tensor.data_type == TensorProto.INT64
            require(small, f"{tensor.name} stands in the model file")
            continue
        info = ExternalDataInfo(tensor)
        require(info.location == DATA_FILE, f"{tensor.name} lies in {info.location}")
        alignment = ALIGN_LARGE if info.length >= LARGE else ALIGN_SMALL
        require(info.offset % alignment == 0, f"{tensor.name} starts at {info.offset}")
        size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        require(info.length == size * int(numpy.prod(tensor.dims)), f"{tensor.name} has {info.length} bytes")
        regions.add((info.offset, info.offset + info.length))
    end = 0
    for first, behind in sorted(regions):
        require(first >= end, f"two tensors share some of their bytes at {first}")
        end = behind
    path = os.path.join(folder, DATA_FILE)
    length = os.path.getsize(path) if os.path.exists(path) else 0
    require(length == end, f"{DATA_FILE} has {length} bytes, the tensors end at {end}")
    return length


def check_shapes(model):
    """Shape inference must give the declared outputs by itself, and a type for every value."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    require(ports(inferred.graph.output) == ports(model.graph.output), "the outputs are not as inferred")
    known = {value.name for value in inferred.graph.value_info} | {value.name for value in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            require(name in known, f"the type of {name} cannot be inferred")
    return ports(inferred.graph.value_info)


def open_session(path, model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for given, declared in [(session.get_inputs(), model.graph.input), (session.get_outputs(), model.graph.output)]:
        seen = [(port.name, port.type, list(port.shape)) for port in given]
        expected = [(name, TYPES.get(kind), sizes) for name, kind, sizes in ports(declared)]
        require(seen == expected, f"the session has {seen}, the model {expected}")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    require(session.get_modelmeta().custom_metadata_map == facts, "the session has other metadata")
    return session


def run(session, inputs_path, outputs_path):
    given = load_file(inputs_path)
    names = [port.name for port in session.get_inputs()]
    for name in names:
        require(name in given, f"{inputs_path} has no {name}")
    outputs = session.run(None, {name: given[name] for name in names})
    named = {port.name: numpy.asarray(value, order="C") for port, value in zip(session.get_outputs(), outputs)}
    save_file(named, outputs_path)


def check(folder, inputs_path=None, outputs_path=None):
    path = os.path.join(folder, "model.onnx")
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    with open(path, "rb") as file:
        require(model.SerializeToString(deterministic=True) == file.read(), "the onnx package writes other bytes")
    check_header(model)
    data_bytes = check_data(model, folder)
    check_shapes(model)
    session = open_session(path, model)
    if inputs_path:
        run(session, inputs_path, outputs_path)
    return {
        "nodes": len(model.graph.node),
        "initializers": len(model.graph.initializer),
        "model_bytes": os.path.getsize(path),
        "data_bytes": data_bytes,
        "facts": {entry.key: entry.value for entry in model.metadata_props},
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    parser.add_argument("--run", metavar="INPUTS")
    parser.add_argument("--out", metavar="OUTPUTS")
    args = parser.parse_args()
    if bool(args.run) != bool(args.out) or (args.run and len(args.folders) != 1):
        parser.error("--run and --out go together, with one folder")
    faults = 0
    for folder in args.folders:
        try:
            report = check(folder, args.run, args.out)
        except Exception as fault:  # The packages raise many kinds: each is a fault of the folder.
            faults += 1
            report = {"error": f"{type(fault).__name__}: {fault}"}
        print(json.dumps({"folder": folder, **report}), flush=True)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

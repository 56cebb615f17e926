"""Checks folders that `snapc compile --target onnx` wrote, with the `onnx` package and ONNX Runtime (CPU).

    python onnx_check.py FOLDER...
    python onnx_check.py FOLDER --run inputs.safetensors --out outputs.safetensors
    python onnx_check.py --jobs jobs.json
    python onnx_check.py --fused FOLDER...
    python onnx_check.py --self-test FOLDER...

Prints one JSON line a folder; where it has a fault, `ok` is false, `reason` says why, and the exit code is 1.
With --run the session is run on the tensors of that file, named as the model's inputs, and its outputs are written.
--jobs is a JSON list of such runs, each `{"artifact": FOLDER, "inputs": FILE, "outputs": FILE}`. With `"f32": true` no product
with an encoded weight rounds its other operand to int8, which ONNX Runtime does by default.
With --fused each line also has `fused`: how many nodes of each kind ONNX Runtime makes of the graph.
--self-test damages copies of the folders: each fault must be found.

    pip install onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 safetensors==0.8.0
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter

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
TYPES = {
    TensorProto.FLOAT: "tensor(float)",
    TensorProto.FLOAT16: "tensor(float16)",
    TensorProto.INT32: "tensor(int32)",
    TensorProto.INT64: "tensor(int64)",
}


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
    graph = model.graph
    others = [model.functions, model.training_info, graph.sparse_initializer, graph.quantization_annotation]
    require(not any(others), "the model has functions, training, sparse tensors or quantization annotations")
    for node in graph.node:
        require(node.domain == "", f"{node.name} is of the domain {node.domain}")
    names = [node.name for node in graph.node]
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
        bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        bits = 4 if tensor.data_type == TensorProto.INT4 else bits
        expected = (bits * int(numpy.prod(tensor.dims)) + 7) // 8
        require(info.length == expected, f"{tensor.name} has {info.length} bytes")
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


def cuts_sums():
    """Whether ONNX Runtime's products of uint8 and int8 codes add pairs at 16 bits: on x86 without VNNI."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = [line for line in file if line.startswith("flags")]
    except OSError:
        return False
    return any("vnni" not in line for line in flags)


def open_session(path, model, f32):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if cuts_sums():
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if f32:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for given, declared in [(session.get_inputs(), model.graph.input), (session.get_outputs(), model.graph.output)]:
        seen = [(port.name, port.type, list(port.shape)) for port in given]
        expected = [(name, TYPES.get(kind), sizes) for name, kind, sizes in ports(declared)]
        require(seen == expected, f"the session has {seen}, the model {expected}")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    require(session.get_modelmeta().custom_metadata_map == facts, "the session has other metadata")
    return session


def fused(path):
    """The nodes of the graph that ONNX Runtime runs, by kind."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = os.path.join(folder, "optimized.onnx")
        # The nodes' names alone count: weights stay out of the file.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def run(session, inputs_path, outputs_path):
    given = load_file(inputs_path)
    inputs = {}
    for port in session.get_inputs():
        require(port.name in given, f"{inputs_path} has no {port.name}")
        # The tests' files have no int64.
        wide = port.type == TYPES[TensorProto.INT64]
        inputs[port.name] = given[port.name].astype(numpy.int64) if wide else given[port.name]
    outputs = session.run(None, inputs)
    named = {port.name: numpy.asarray(value, order="C") for port, value in zip(session.get_outputs(), outputs)}
    save_file(named, outputs_path)


def check(folder, inputs_path=None, outputs_path=None, f32=False):
    path = os.path.join(folder, "model.onnx")
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    with open(path, "rb") as file:
        require(model.SerializeToString(deterministic=True) == file.read(), "the onnx package writes other bytes")
    check_header(model)
    data_bytes = check_data(model, folder)
    check_shapes(model)
    session = open_session(path, model, f32)
    if inputs_path:
        run(session, inputs_path, outputs_path)
    return {
        "nodes": len(model.graph.node),
        "initializers": len(model.graph.initializer),
        "model_bytes": os.path.getsize(path),
        "data_bytes": data_bytes,
        "facts": {entry.key: entry.value for entry in model.metadata_props},
    }


def damages(model):
    """What can be done to a model file, by name. Each takes the model and changes it."""
    graph = model.graph
    external = [tensor for tensor in graph.initializer if tensor.data_location == TensorProto.EXTERNAL]

    def entry(key, value):
        (found,) = [entry for entry in external[-1].external_data if entry.key == key]
        found.value = value

    def swap_nodes():
        nodes = list(graph.node)[::-1]
        del graph.node[:]
        graph.node.extend(nodes)

    def add(message, field, value):
        setattr(message, field, getattr(message, field) + value)

    output = graph.output[0].type.tensor_type
    found = {
        "ir_version": lambda: add(model, "ir_version", 1),
        "opset": lambda: add(model.opset_import[0], "version", 1),
        "second_domain": lambda: model.opset_import.add(domain="com.microsoft", version=1),
        "producer": lambda: model.ClearField("producer_name"),
        "functions": lambda: model.functions.add(name="f", domain="d"),
        "unknown_op": lambda: add(graph.node[0], "op_type", "X"),
        "domain": lambda: add(graph.node[0], "domain", "com.microsoft"),
        "input": lambda: add_first(graph.node[0].input, "other"),
        "result_twice": lambda: graph.node.add().CopyFrom(graph.node[-1]),
        "output_name": lambda: add(graph.output[0], "name", "_other"),
        "output_type": lambda: setattr(output, "elem_type", TensorProto.DOUBLE),
        "no_name": lambda: graph.node[0].ClearField("name"),
    }
    if output.shape.dim:
        found["output_size"] = lambda: add(output.shape.dim[0], "dim_value", 1)
    if any(set(later.input) & set(earlier.output) for earlier, later in zip(graph.node, graph.node[1:])):
        found["order"] = swap_nodes
    if external:
        found["offset"] = lambda: entry("offset", "4")
        found["location"] = lambda: entry("location", "../" + DATA_FILE)
        found["length"] = lambda: entry("length", "1028")
        found["type"] = lambda: setattr(external[-1], "data_type", TensorProto.INT64)
    return found


def add_first(names, text):
    names[0] += text


def self_test(folder):
    """Every damage of a folder must be found; the number of damages."""
    path = os.path.join(folder, "model.onnx")
    names = list(damages(onnx.load(path, load_external_data=False)))
    has_data = os.path.exists(os.path.join(folder, DATA_FILE))
    names += ["cut", "longer", "missing"] if has_data else []
    for name in names:
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            model = onnx.load(path, load_external_data=False)
            data = os.path.join(copy, DATA_FILE)
            if name == "missing":
                os.remove(data)
            elif name in ("cut", "longer"):
                os.truncate(data, os.path.getsize(data) + (1 if name == "longer" else -1))
            else:
                damages(model)[name]()
                with open(os.path.join(copy, "model.onnx"), "wb") as file:
                    file.write(model.SerializeToString(deterministic=True))
            try:
                check(copy)
            except Exception:
                continue
            raise Fault(f"the damage `{name}` was not found")
    return {"damages": len(names)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", metavar="FOLDER")
    parser.add_argument("--run", metavar="INPUTS", help="a safetensors file of inputs to run the model on")
    parser.add_argument("--out", metavar="OUTPUTS", help="where the outputs go")
    parser.add_argument("--jobs", metavar="FILE", help="a JSON list of artifacts to check and run")
    parser.add_argument("--fused", action="store_true", help="say which nodes ONNX Runtime makes of each graph")
    parser.add_argument("--self-test", action="store_true", help="damage copies of the folders; each fault must be found")
    args = parser.parse_args()
    if bool(args.run) != bool(args.out) or (args.run and len(args.folders) != 1):
        parser.error("--run and --out belong together, with one folder")
    if bool(args.jobs) == bool(args.folders):
        parser.error("give folders or --jobs")
    jobs = [(folder, args.run, args.out, False) for folder in args.folders]
    if args.jobs:
        with open(args.jobs, encoding="utf-8") as file:
            listed = json.load(file)
            jobs = [(job["artifact"], job["inputs"], job["outputs"], job.get("f32", False)) for job in listed]
    failed = False
    for folder, inputs, outputs, f32 in jobs:
        try:
            line = {"ok": True, **(self_test(folder) if args.self_test else check(folder, inputs, outputs, f32))}
            if args.fused:
                line["fused"] = fused(os.path.join(folder, "model.onnx"))
        except Exception as fault:  # The packages raise many kinds: each is a fault of the folder.
            failed = True
            line = {"ok": False, "reason": f"{type(fault).__name__}: {fault}"}
        print(json.dumps({"folder": folder, **line}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

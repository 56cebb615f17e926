"""Checks files that `snapc compile --target tflite` wrote, with LiteRT (CPU, its default delegate XNNPACK).

    python tflite_check.py FILE...
    python tflite_check.py FILE --run inputs.safetensors --out outputs.safetensors [--signature KEY]
    python tflite_check.py --jobs jobs.json
    python tflite_check.py --partitions FILE...
    python tflite_check.py --self-test FILE...

Prints one JSON line a file; where it has a fault, `ok` is false, `reason` says why, and the exit code is 1.
With --run the signature is run on the tensors of that file, named as the signature's inputs, and its outputs are written. Where a
file has several, --signature names one.
--jobs is a JSON list of such runs, each `{"artifact": FILE, "inputs": FILE, "outputs": FILE}`, where needed with `"signature": KEY`.
With --partitions each line also has `partitions`, the pieces that XNNPACK makes of the graph, and `left_out`, the operators that
are in none of them: of a file with one signature, as the runtime tells no more.
--self-test damages copies of the files: each fault must be found.

    pip install ai-edge-litert==2.3.0 numpy==2.4.6 safetensors==0.8.0
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter

import numpy
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from safetensors.numpy import load_file, save_file

ALIGNMENT, TAIL = 16, 16
SMALLEST_OUTSIDE = 1024
RUNTIME_KEY, LOCATION_KEY = "min_runtime_version", "buffer_location"
TYPES = {0: numpy.float32, 1: numpy.float16, 2: numpy.int32}
# Types of codes, and bits of one.
CODES = {9: 8, 17: 4}
BLOCKWISE = 2

# Operator and version, its options, and the oldest runtime that has it.
OPERATORS = {
    ("ADD", 1): ("AddOptions", (1, 5)),
    ("CONCATENATION", 1): ("ConcatenationOptions", (1, 5)),
    ("CONV_2D", 1): ("Conv2DOptions", (1, 5)),
    ("CONV_2D", 3): ("Conv2DOptions", (1, 14)),
    ("CONV_2D", 6): ("Conv2DOptions", (2, 9)),
    ("DEQUANTIZE", 2): ("DequantizeOptions", (1, 14)),
    ("DEQUANTIZE", 3): ("DequantizeOptions", (1, 15)),
    ("DEQUANTIZE", 5): ("DequantizeOptions", (2, 7)),
    ("EMBEDDING_LOOKUP", 1): ("NONE", (1, 13)),
    ("FULLY_CONNECTED", 5): ("FullyConnectedOptions", (2, 0)),
    ("FULLY_CONNECTED", 10): ("FullyConnectedOptions", (2, 11)),
    ("FULLY_CONNECTED", 12): ("FullyConnectedOptions", (2, 17)),
    ("FULLY_CONNECTED", 13): ("FullyConnectedOptions", (2, 18)),
    ("LOGISTIC", 1): ("NONE", (1, 14)),
    ("MUL", 1): ("MulOptions", (1, 5)),
    ("RELU", 1): ("NONE", (1, 5)),
    ("RESHAPE", 1): ("ReshapeOptions", (1, 5)),
    ("SOFTMAX", 1): ("SoftmaxOptions", (1, 5)),
    ("TANH", 1): ("NONE", (1, 14)),
    ("PAD", 1): ("PadOptions", (1, 5)),
    ("TRANSPOSE", 1): ("TransposeOptions", (1, 6)),
    ("MEAN", 1): ("ReducerOptions", (1, 6)),
    ("SUB", 1): ("SubOptions", (1, 6)),
    ("SPLIT", 1): ("SplitOptions", (1, 5)),
    ("CAST", 5): ("CastOptions", (2, 12)),
    ("SLICE", 1): ("SliceOptions", (1, 14)),
    ("SIN", 1): ("NONE", (1, 9)),
    ("RSQRT", 1): ("NONE", (1, 10)),
    ("COS", 1): ("CosOptions", (1, 14)),
    ("QUANTIZE", 1): ("QuantizeOptions", (1, 14)),
    ("BATCH_MATMUL", 1): ("BatchMatMulOptions", (2, 3)),
    ("GELU", 1): ("GeluOptions", (2, 9)),
}
OUTSIDE_RUNTIME = (2, 14)


class Fault(Exception):
    """What is wrong with a file."""


def require(condition, message):
    if not condition:
        raise Fault(message)


def names_of(enum):
    return {value: name for name, value in vars(enum).items() if not name.startswith("_")}


BUILTINS, OPTIONS = names_of(schema.BuiltinOperator), names_of(schema.BuiltinOptions)


def text(value):
    return (value or b"").decode()


def check_buffers(model, content):
    """Buffers in the flatbuffer and behind it. Gives the length of the flatbuffer."""
    require(model.buffers[0].data is None and not model.buffers[0].offset, "the first buffer is not empty")
    regions = set()
    for number, buffer in enumerate(model.buffers[1:], 1):
        if buffer.offset:
            require(buffer.data is None, f"buffer {number} is in two places")
            require(buffer.offset % ALIGNMENT == 0, f"buffer {number} starts at {buffer.offset}")
            regions.add((buffer.offset, buffer.offset + buffer.size))
        else:
            require(buffer.data is not None, f"buffer {number} is empty")
            data = bytes(buffer.data)
            require(len(data) < SMALLEST_OUTSIDE or number >= len(model.buffers) - len(model.metadata),
                    f"buffer {number} stands in the flatbuffer with {len(data)} bytes")
    start = min(regions)[0] if regions else len(content) - TAIL
    require(start % ALIGNMENT == 0, f"the flatbuffer ends at {start}")
    end = start
    for first, behind in sorted(regions):
        require(end <= first < end + ALIGNMENT, f"after byte {end} a buffer starts at {first}")
        require(not any(content[end:first]), f"the bytes from {end} to {first} are not zero")
        end = behind
    require(end + TAIL == len(content) and not any(content[end:]), f"the file does not end {TAIL} zeros behind {end}")
    return start


def check_alignment(content):
    """Constants in the flatbuffer are aligned too."""
    model = schema.Model.GetRootAs(content, 0)
    for number in range(model.BuffersLength()):
        buffer = model.Buffers(number)
        if not buffer.DataIsNone():
            at = buffer._tab.Vector(buffer._tab.Offset(4))
            require(at % ALIGNMENT == 0, f"the data of buffer {number} starts at {at}")


def check_codes(model):
    """Operator codes, each once: names and versions."""
    codes = []
    for code in model.operatorCodes:
        name = BUILTINS[code.builtinCode]
        require((name, code.version) in OPERATORS, f"{name} of version {code.version}")
        require(code.deprecatedBuiltinCode == min(code.builtinCode, 127), f"{name} has two codes")
        codes.append((name, code.version))
    require(len(set(codes)) == len(codes), "an operator code is there twice")
    return codes


def check_operators(codes, graph):
    """Codes, versions and options; operands before operators. Gives the oldest runtime."""
    made = {number for number, tensor in enumerate(graph.tensors) if tensor.buffer} | set(graph.inputs)
    for operator in graph.operators:
        name, version = codes[operator.opcodeIndex]
        kind = OPTIONS[operator.builtinOptionsType]
        require(kind == OPERATORS[name, version][0], f"{name} has {kind}")
        for number in operator.inputs:
            require(number in made or number == -1, f"tensor {number} is not made before {name}")
        made |= set(operator.outputs)
    require(made >= set(graph.outputs), "an output is not made")
    return max((OPERATORS[codes[operator.opcodeIndex]][1] for operator in graph.operators), default=(0, 0))


def check_tensors(model, graph):
    for tensor in graph.tensors:
        name, shape = text(tensor.name), [] if tensor.shape is None else [int(size) for size in tensor.shape]
        require(tensor.type in TYPES or tensor.type in CODES, f"{name} is of type {tensor.type}")
        require(tensor.hasRank and len(shape) <= 4, f"{name} has the shape {shape}")
        buffer = model.buffers[tensor.buffer]
        if tensor.buffer:
            length = buffer.size if buffer.offset else len(buffer.data)
            bits = CODES.get(tensor.type) or 8 * numpy.dtype(TYPES[tensor.type]).itemsize
            expected = (int(numpy.prod(shape)) * bits + 7) // 8
            require(length == expected, f"{name} has {length} bytes, expected {expected}")
        check_codes_of(graph, tensor, name, shape)
    names = [tensor.name for tensor in graph.tensors]
    require(len(set(names)) == len(names), "two tensors have one name")


def check_codes_of(graph, tensor, name, shape):
    """Codes have a scale a row, or one a block in a tensor of their own; zero points are zero."""
    scales = tensor.quantization
    if tensor.type == 9 and tensor.buffer == 0:
        require(scales is not None and scales.detailsType == 0 and scales.quantizedDimension == 0, f"{name} has no scale")
        require(len(scales.scale) == 1 and list(scales.zeroPoint) == [0], f"{name} has not one scale and zero point 0")
        require(numpy.isfinite(scales.scale).all() and scales.scale[0] > 0, f"{name} has the scale {scales.scale}")
        return
    if tensor.type == 2 and scales is not None:
        check_steps(graph, tensor, name)
        return
    if tensor.type not in CODES:
        require(scales is None or scales.scale is None, f"{name} has scales, but no codes")
        return
    require(scales is not None and scales.quantizedDimension == 0, f"{name} has no scales on its first axis")
    if scales.detailsType == BLOCKWISE:
        blocks = graph.tensors[scales.details.scales]
        size = scales.details.blockSize
        require(blocks.type == 1 and list(blocks.shape) == [shape[0], shape[1] // size], f"the scales of {name}")
        require(size % 32 == 0 and shape[1] % size == 0 and tensor.type == 17, f"{name} has blocks of {size}")
        return
    require(scales.detailsType == 0 and len(scales.scale) == shape[0], f"{name} has not a scale a row")
    require(len(scales.zeroPoint) == shape[0] and not any(scales.zeroPoint), f"{name} has zero points")
    require(numpy.isfinite(scales.scale).all(), f"{name} has a scale that is no number")


def check_steps(graph, tensor, name):
    """What is added to products of codes: in steps of both scales, by every operator that reads it."""
    number = next(number for number, other in enumerate(graph.tensors) if other is tensor)
    readers = [operator for operator in graph.operators if number in operator.inputs]
    require(readers and all(operator.inputs[2] == number for operator in readers), f"{name} is no bias")
    for operator in readers:
        x, weight = (graph.tensors[operator.inputs[place]] for place in (0, 1))
        require(x.type == 9 and weight.type == 9, f"{name} is not added to products of codes")
        steps = numpy.float32(x.quantization.scale[0]) * numpy.asarray(weight.quantization.scale, numpy.float32)
        require(numpy.array_equal(steps, numpy.asarray(tensor.quantization.scale, numpy.float32)), f"the steps of {name}")


def check_use(model):
    """Every buffer is that of a tensor or of a metadata entry."""
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors} | {entry.buffer for entry in model.metadata}
    unused = set(range(1, len(model.buffers))) - used
    require(not unused, f"nothing uses the buffers {sorted(unused)}")


def check_metadata(model, oldest):
    """The facts that the file carries."""
    facts = {text(entry.name): bytes(model.buffers[entry.buffer].data).rstrip(b"\0").decode() for entry in model.metadata}
    require(len(facts) == len(model.metadata), "a metadata entry is there twice")
    outside = any(buffer.offset for buffer in model.buffers)
    oldest = max(oldest, OUTSIDE_RUNTIME) if outside else oldest
    wanted = f"{oldest[0]}.{oldest[1]}.0"
    require(facts.get(RUNTIME_KEY) == wanted, f"{RUNTIME_KEY} is {facts.get(RUNTIME_KEY)}, expected {wanted}")
    location = "outside flatbuffers" if outside else None
    require(facts.get(LOCATION_KEY) == location, f"{LOCATION_KEY} is {facts.get(LOCATION_KEY)}")
    return {key: value for key, value in facts.items() if key not in (RUNTIME_KEY, LOCATION_KEY)}


def check_signatures(model):
    """One signature a graph, in their order, named as it, alone or with more behind `_`. Gives the ports of each."""
    signatures, graphs = model.signatureDefs or [], model.subgraphs
    require(len(signatures) == len(graphs), f"{len(signatures)} signatures of {len(graphs)} graphs")
    found = {}
    for number, (signature, graph) in enumerate(zip(signatures, graphs)):
        key, name = text(signature.signatureKey), text(graph.name)
        only = len(graphs) == 1 and key == "serving_default"
        require(only or key == name or key.startswith(f"{name}_"), f"the signature {key} of {name}")
        require(signature.subgraphIndex == number, f"{key} is of graph {signature.subgraphIndex}, expected {number}")
        require(key not in found, f"two signatures are {key}")
        found[key] = ports(signature, graph)
    return found


def ports(signature, graph):
    """Name, element type and sizes of the inputs and the outputs of a signature."""
    found = []
    for maps, numbers in [(signature.inputs, graph.inputs), (signature.outputs, graph.outputs)]:
        maps = maps or []
        require([entry.tensorIndex for entry in maps] == list(numbers), "the signature names other tensors")
        side = []
        for entry in maps:
            tensor = graph.tensors[entry.tensorIndex]
            shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
            side.append((text(entry.name), numpy.dtype(TYPES[tensor.type]), shape))
        require(len({name for name, _, _ in side}) == len(side), "two ports have one name")
        found.append(side)
    return found


def open_runners(path, signatures):
    """The runtime with the file, and a runner of each signature, made ready to run."""
    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    require(set(interpreter.get_signature_list()) == set(signatures), "the runtime has other signatures")
    runners = {}
    for key, (inputs, outputs) in signatures.items():
        runner = runners[key] = interpreter.get_signature_runner(key)
        runner._interpreter_wrapper.AllocateTensors(runner._subgraph_index)
        for details, declared in [(runner.get_input_details(), inputs), (runner.get_output_details(), outputs)]:
            seen = {name: (numpy.dtype(port["dtype"]), [int(size) for size in port["shape"]]) for name, port in details.items()}
            expected = {name: (dtype, shape) for name, dtype, shape in declared}
            require(seen == expected, f"the runtime has {seen}, the file {expected}")
    return interpreter, runners


def partitions(interpreter):
    """How many pieces the delegate makes, and which operators it leaves out: those that results need and no piece makes."""
    nodes = interpreter._get_ops_details()
    pieces = [node for node in nodes if node["op_name"] == "DELEGATE"]
    maker = {int(tensor): node for node in [*nodes, *pieces] for tensor in node["outputs"]}
    left_out, seen = Counter(), set()
    wanted = [int(port["index"]) for port in interpreter.get_output_details()]
    while wanted:
        node = maker.get(wanted.pop())
        if node is None or node["index"] in seen:
            continue
        seen.add(node["index"])
        if node["op_name"] != "DELEGATE":
            left_out[node["op_name"]] += 1
        wanted += [int(tensor) for tensor in node["inputs"] if tensor >= 0]
    return {"partitions": len(pieces), "left_out": dict(sorted(left_out.items()))}


def run(signatures, runners, key, inputs_path, outputs_path):
    require(key in signatures or (key is None and len(signatures) == 1), f"which of {list(signatures)}? {key}")
    key = key or next(iter(signatures))
    runner, inputs = runners[key], signatures[key][0]
    given = load_file(inputs_path)
    for name, _, _ in inputs:
        require(name in given, f"{inputs_path} has no {name}")
    outputs = runner(**{name: given[name] for name, _, _ in inputs})
    save_file({name: numpy.ascontiguousarray(value).reshape(value.shape) for name, value in outputs.items()}, outputs_path)


def check(path, count_partitions=False):
    """What a file holds, the ports of its signatures, and their runners."""
    with open(path, "rb") as file:
        content = file.read()
    require(content[4:8] == b"TFL3", "no TFLite file")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    require(model.version == 3 and model.subgraphs, "another version, or no graph")
    require(text(model.description).startswith("snapc "), "no producer")
    graphs = model.subgraphs
    length = check_buffers(model, content)
    check_alignment(content)
    codes = check_codes(model)
    for graph in graphs:
        check_tensors(model, graph)
    check_use(model)
    facts = check_metadata(model, max(check_operators(codes, graph) for graph in graphs))
    signatures = check_signatures(model)
    interpreter, runners = open_runners(path, signatures)
    found = {
        "signatures": list(signatures),
        "operators": sum(len(graph.operators) for graph in graphs),
        "tensors": sum(len(graph.tensors) for graph in graphs),
        "flatbuffer_bytes": length,
        "bytes": len(content),
        "facts": facts,
    }
    if count_partitions:
        require(len(graphs) == 1, "the runtime counts the pieces of the first signature only")
        found.update(partitions(interpreter))
    return found, signatures, runners


def number(content, at, size=4, signed=False):
    return int.from_bytes(content[at : at + size], "little", signed=signed)


def field(table, slot):
    """Where a field of a generated table lies in the file."""
    place = table._tab.Offset(4 + 2 * slot)
    require(place, f"field {slot} is not there")
    return table._tab.Pos + place


def damages(content):
    """What can be done to a file, by name: where, and the bytes that stand there then."""
    model = schema.Model.GetRootAs(content, 0)
    code, runtime = model.OperatorCodes(0), model.Buffers(model.Metadata(0).Buffer())
    found = {
        "identifier": (4, b"X"),
        "schema_version": (field(model, 0), b"\x04"),
        "version": (field(code, 2), b"\x63"),
        "code": (field(code, 3), bytes([number(content, field(code, 3)) ^ 1])),
        "runtime": (runtime._tab.Vector(runtime._tab.Offset(4)), b"9"),
        "graphs": (model._tab.Vector(model._tab.Offset(8)) - 4, (model.SubgraphsLength() - 1).to_bytes(4, "little")),
        "signatures": (model._tab.Vector(model._tab.Offset(18)) - 4, (model.SignatureDefsLength() - 1).to_bytes(4, "little")),
    }
    for index in range(model.SubgraphsLength()):
        graph, signature = model.Subgraphs(index), model.SignatureDefs(index)
        found.update({f"{name} of graph {index}": damage for name, damage in damages_of(graph, signature, index).items()})
    outside = [model.Buffers(index) for index in range(model.BuffersLength()) if model.Buffers(index).Offset()]
    if outside:
        found["offset"] = (field(outside[-1], 1), bytes([content[field(outside[-1], 1)] ^ 1]))
        found["size"] = (field(outside[-1], 2), bytes([content[field(outside[-1], 2)] ^ 4]))
    return found


def damages_of(graph, signature, index):
    """What can be done to one graph and its signature."""
    operator, last = graph.Operators(0), graph.Operators(graph.OperatorsLength() - 1)
    text_at = lambda table, slot: table._tab.Indirect(field(table, slot)) + 4
    found = {
        "operand": (operator._tab.Vector(operator._tab.Offset(6)), (graph.TensorsLength() - 1).to_bytes(4, "little")),
        "result": (last._tab.Vector(last._tab.Offset(8)), b"\x00\x00\x00\x00"),
        "rank": (field(graph.Tensors(0), 8), b"\x00"),
        "type": (field(graph.Tensors(0), 1), b"\x04"),
        "signature_key": (text_at(signature, 2), b"S"),
        "signature_graph": (field(signature, 4), bytes([index + 1])),
        "signature_tensor": (field(signature.Outputs(0), 1), b"\xfe\xff\x00\x00"),
    }
    if operator._tab.Offset(10):
        found["options"] = (field(operator, 3), b"\x7e")
    return found


def self_test(path):
    """Every damage of a file must be found; the number of damages."""
    with open(path, "rb") as file:
        content = file.read()
    copies = {name: content[:at] + new + content[at + len(new) :] for name, (at, new) in damages(content).items()}
    copies["cut"], copies["longer"], copies["tail"] = content[:-1], content + b"\0", content[:-1] + b"\1"
    for name, damaged in copies.items():
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "copy.tflite")
            with open(copy, "wb") as file:
                file.write(damaged)
            try:
                check(copy)
            except Exception:
                continue
            raise Fault(f"the damage `{name}` was not found")
    return {"damages": len(copies)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--run", metavar="INPUTS", help="a safetensors file of inputs to run the model on")
    parser.add_argument("--out", metavar="OUTPUTS", help="where the outputs go")
    parser.add_argument("--signature", metavar="KEY", help="which signature to run, of a file with several")
    parser.add_argument("--jobs", metavar="FILE", help="a JSON list of artifacts to check and run")
    parser.add_argument("--partitions", action="store_true", help="say how many pieces the delegate makes of each graph")
    parser.add_argument("--self-test", action="store_true", help="damage copies of the files; each fault must be found")
    args = parser.parse_args()
    if bool(args.run) != bool(args.out) or (args.run and len(args.files) != 1):
        parser.error("--run and --out belong together, with one file")
    if bool(args.jobs) == bool(args.files):
        parser.error("give files or --jobs")
    jobs = [(file, args.signature, args.run, args.out) for file in args.files]
    if args.jobs:
        with open(args.jobs, encoding="utf-8") as file:
            jobs = [(job["artifact"], job.get("signature"), job["inputs"], job["outputs"]) for job in json.load(file)]
    failed, last = False, None
    for path, signature, inputs, outputs in jobs:
        try:
            if args.self_test:
                found = self_test(path)
            else:
                # Jobs of one file follow each other: it is checked once.
                if last is None or last[0] != path:
                    last = path, check(path, args.partitions)
                found, signatures, runners = last[1]
                if inputs:
                    run(signatures, runners, signature, inputs, outputs)
            line = {"ok": True, **found}
        except Exception as fault:  # The packages raise many kinds: each is a fault of the file.
            failed = True
            line = {"ok": False, "reason": f"{type(fault).__name__}: {fault}"}
        print(json.dumps({"file": path, **line}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs one model on random numbers: prints CPU and wall milliseconds of a run (the least of some) and the peak memory.

    python measure.py onnx|tflite MODEL [RUNS [THREADS [LEVEL]]]

LEVEL is ONNX Runtime's accuracy level of the products that it makes of codes (1: in f32, 4: in int8).
"""

import json
import resource
import sys
import time

import numpy


def numbers(name, shape, dtype):
    if dtype == numpy.int32:
        return numpy.zeros(shape, numpy.int32)
    if name == "text_mask":
        mask = numpy.ones(shape, numpy.float32)
        mask[..., 20:] = 0
        return mask
    if name == "timestep":
        return numpy.full(shape, 500, numpy.float32)
    return numpy.random.default_rng(0).standard_normal(shape, numpy.float32)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def onnx(threads, level):
    import onnxruntime

    return lambda path: open_onnx(onnxruntime, path, threads, level)


def open_onnx(onnxruntime, path, threads, level):
    options = onnxruntime.SessionOptions()
    if level is not None:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": numpy.float32, "tensor(int32)": numpy.int32}
    inputs = {port.name: numbers(port.name, port.shape, types[port.type]) for port in session.get_inputs()}
    return lambda: session.run(None, inputs)


def tflite(threads, _level):
    from ai_edge_litert.interpreter import Interpreter

    return lambda path: open_tflite(Interpreter, path, threads)


def open_tflite(Interpreter, path, threads):
    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    for port in interpreter.get_input_details():
        interpreter.set_tensor(port["index"], numbers(port["name"], port["shape"], port["dtype"]))
    return interpreter.invoke


def main():
    kind, path, runs = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 3
    threads = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    level = sys.argv[5] if len(sys.argv) > 5 else None
    open_model = {"onnx": onnx, "tflite": tflite}[kind](threads, level)
    before = peak_mb()
    run = open_model(path)
    times, walls, peaks = [], [], []
    for _ in range(runs):
        start, wall = time.process_time(), time.perf_counter()
        run()
        times.append(1000 * (time.process_time() - start))
        walls.append(1000 * (time.perf_counter() - wall))
        peaks.append(peak_mb())
    cost = {"ms": min(times), "wall_ms": min(walls), "first_mb": peaks[0], "peak_mb": peaks[-1]}
    print(json.dumps(cost | {"before_mb": before}))


main()

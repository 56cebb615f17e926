"""Runs the three ONNX artifacts of a compiled folder, text to picture: prints CPU and wall milliseconds (the least of some) and the
peak memory.

    python pipeline.py FOLDER JOB RUNS THREADS

JOB is JSON: `ids`, `mask`, `noise` (a list), `shape`, `sigmas`. Steps are Euler's.
"""

import json
import pathlib
import resource
import sys
import time

import numpy
import onnxruntime


def main():
    folder, job = pathlib.Path(sys.argv[1]), json.loads(pathlib.Path(sys.argv[2]).read_text())
    runs, threads = int(sys.argv[3]), int(sys.argv[4])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    opened, start = {}, time.perf_counter()
    for part in ["text_encoder", "transformer", "vae_decoder"]:
        path = str(folder / part / "model.onnx")
        opened[part] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    open_ms = 1000 * (time.perf_counter() - start)
    ids, mask = numpy.array([job["ids"]], numpy.int32), numpy.array([job["mask"]], numpy.float32)
    noise, sigmas = numpy.array(job["noise"], numpy.float32).reshape(job["shape"]), job["sigmas"]

    def draw():
        text = opened["text_encoder"].run(None, {"input_ids": ids})[0]
        latent = noise
        for sigma, after in zip(sigmas, sigmas[1:]):
            inputs = {"latent": latent, "timestep": numpy.array([1000 * sigma], numpy.float32)}
            velocity = opened["transformer"].run(None, inputs | {"text": text, "text_mask": mask})[0]
            latent = latent + numpy.float32(after - sigma) * velocity
        image = opened["vae_decoder"].run(None, {"latent": latent})[0]
        return numpy.rint((image.clip(-1, 1) + 1) * 127.5).astype(numpy.uint8)

    times, walls = [], []
    for _ in range(runs):
        start, wall = time.process_time(), time.perf_counter()
        draw()
        times.append(1000 * (time.process_time() - start))
        walls.append(1000 * (time.perf_counter() - wall))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"ms": min(times), "wall_ms": min(walls), "first_mb": peak, "peak_mb": peak, "open_ms": open_ms}))


main()

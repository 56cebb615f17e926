"""Draws a picture with a folder that `snapc compile --target onnx --layout optimum` wrote, in optimum's own pipeline.

    python optimum_check.py FOLDER --prompt TEXT --noise FILE --out FILE

FILE holds `noise [1, C, H, W]`; the other gets `image [1, 3, H, W]` in [-1, 1], rounded to 8 bits as a picture is. Prints one
JSON line with the classes that were loaded.

    pip install -r requirements-optimum.txt
"""

import argparse
import json
import os
import sys

import numpy
import torch
from optimum.onnxruntime import ORTDiffusionPipeline
from safetensors.numpy import load_file, save_file


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--noise", required=True, metavar="FILE")
    parser.add_argument("--out", required=True, metavar="FILE")
    arguments = parser.parse_args()

    with open(os.path.join(arguments.folder, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    height, width = manifest["options"]["size"]
    # With IO binding (its default on GPUs) optimum 0.1.0 writes the velocity over the latent, where there is no guidance.
    pipeline = ORTDiffusionPipeline.from_pretrained(arguments.folder, use_io_binding=False)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        arguments.prompt,
        height=height,
        width=width,
        latents=torch.from_numpy(load_file(arguments.noise)["noise"]),
        # The pipeline adds the 0 at the end itself.
        sigmas=manifest["schedule"]["sigmas"][:-1],
        num_inference_steps=len(manifest["schedule"]["sigmas"]) - 1,
        guidance_scale=1.0,
        max_sequence_length=manifest["tokenizer"]["tokens"],
        # Sana's instructions to its language model, and its table of sizes.
        complex_human_instruction=None,
        use_resolution_binning=False,
    ).images[0]
    pixels = numpy.asarray(image, dtype=numpy.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    save_file({"image": numpy.ascontiguousarray(pixels)}, arguments.out)
    parts = ["scheduler", "tokenizer", "text_encoder", "transformer", "vae"]
    print(json.dumps({"pipeline": type(pipeline).__name__, **{part: type(getattr(pipeline, part)).__name__ for part in parts}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

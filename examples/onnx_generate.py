"""Draws a picture with the ONNX models that `snapc compile --target onnx` wrote.

    pip install onnxruntime tokenizers numpy pillow
    python onnx_generate.py dist/onnx/small --prompt "a red circle left of a blue square" --seed 7 -o out.png

Copy it into an app and change what you need: nothing here depends on snapc.
"""

import argparse
import json
from pathlib import Path

import numpy
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer


def open_model(dist, manifest, part):
    """Opens one of the three models; gives a function from named arrays to its output."""
    artifact = next(entry["artifact"] for entry in manifest["parts"] if entry["part"] == part)
    options = onnxruntime.SessionOptions()
    # From the second run on a memory pattern would keep a second arena beside the first.
    options.enable_mem_pattern = False
    path = dist / artifact / "model.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda **inputs: session.run(None, inputs)[0]


def tokenize(dist, tokens, prompt):
    """Token ids of the prompt, cut and padded to the length that the models take, and a mask: 1 = a real token."""
    tokenizer = Tokenizer.from_file(str(dist / "tokenizer/tokenizer.json"))
    config = json.loads((dist / "tokenizer/tokenizer_config.json").read_text(encoding="utf-8"))
    pad = config["pad_token"]
    pad = pad if isinstance(pad, str) else pad["content"]
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens, pad_token=pad, pad_id=tokenizer.token_to_id(pad))
    encoded = tokenizer.encode(prompt)
    return numpy.array([encoded.ids], numpy.int32), numpy.array([encoded.attention_mask], numpy.float32)


def read_noise(path):
    """The starting noise, and what a stochastic schedule draws at each step, from a safetensors file."""
    from safetensors.numpy import load_file

    tensors = load_file(path)
    return tensors["noise"], iter(tensors.get("fresh", []))


def draw_noise(seed, shape):
    """The same from a seed. (The seeds of `snapc run` are PyTorch's: they give other pictures.)"""
    random = numpy.random.default_rng(seed)
    return random.standard_normal(shape, numpy.float32), iter(lambda: random.standard_normal(shape, numpy.float32), None)


def sample(transformer, manifest, latent, fresh, texts):
    """From noise to picture; the latent after each step, or the last one alone where all steps are one run."""
    sigmas, rule = manifest["schedule"]["sigmas"], manifest["schedule"]["rule"]
    bake = manifest["options"]["bake"]
    if bake == "unrolled":
        # `noise1` is mixed in after the first step, and so on; after the last one there is none.
        later = range(1, len(sigmas) - 1) if rule == "stochastic" else []
        return [transformer(noise=latent, **{f"noise{step}": next(fresh) for step in later}, **texts)]
    latents = []
    for step, (sigma, following) in enumerate(zip(sigmas, sigmas[1:])):
        if bake == "step":
            inputs = {"step": numpy.array([step], numpy.int32)}
            if rule == "stochastic":
                inputs["noise"] = next(fresh) if following > 0 else numpy.zeros_like(latent)
            latent = transformer(latent=latent, **inputs, **texts)
        else:
            # The timestep is 1000 * sigma. The model gives the velocity: noise - picture.
            velocity = transformer(latent=latent, timestep=numpy.array([1000 * sigma], numpy.float32), **texts)
            if rule == "euler":
                latent = latent + numpy.float32(following - sigma) * velocity
            else:
                latent = numpy.float32(1 - following) * (latent - numpy.float32(sigma) * velocity)
                if following > 0:
                    latent += numpy.float32(following) * next(fresh)
        latents.append(latent)
    return latents


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dist", type=Path, metavar="DIST", help="the folder with manifest.json: dist/onnx/small")
    parser.add_argument("--prompt", required=True, help="what the picture shows")
    parser.add_argument("--negative-prompt", help="what it shall not show: for folders compiled with --guidance")
    parser.add_argument("--seed", type=int, default=0, help="another number, another picture")
    parser.add_argument("-o", "--output", default="out.png", metavar="PNG", help="where the picture goes (out.png)")
    parser.add_argument("--noise", metavar="FILE", help="a safetensors file with `noise`, instead of a seed")
    parser.add_argument("--save", metavar="FILE", help="a safetensors file for the text, the latents and the image")
    arguments = parser.parse_args()

    dist = arguments.dist
    manifest = json.loads((dist / "manifest.json").read_text(encoding="utf-8"))
    text_encoder, transformer, vae_decoder = (
        open_model(dist, manifest, part) for part in ("text_encoder", "transformer", "vae_decoder")
    )

    def encode(prompt, prefix=""):
        ids, mask = tokenize(dist, manifest["tokenizer"]["tokens"], prompt)
        return {f"{prefix}text": text_encoder(input_ids=ids), f"{prefix}text_mask": mask}

    texts = encode(arguments.prompt)
    if manifest["options"]["guidance"] is not None:
        texts |= encode(arguments.negative_prompt or "", "negative_")
    elif arguments.negative_prompt is not None:
        parser.error("--negative-prompt needs a folder that was compiled with --guidance")

    entry = next(entry for entry in manifest["parts"] if entry["part"] == "transformer")
    shape = next(port["shape"] for port in entry["inputs"] if port["name"] in ("latent", "noise"))
    noise, fresh = read_noise(arguments.noise) if arguments.noise else draw_noise(arguments.seed, shape)
    latents = sample(transformer, manifest, noise, fresh, texts)

    # The decoder takes the latent as it is and gives RGB in [-1, 1], [1, 3, height, width].
    image = vae_decoder(latent=latents[-1])
    pixels = ((image[0].transpose(1, 2, 0).clip(-1, 1) + 1) * 127.5).round().astype(numpy.uint8)
    Image.fromarray(pixels).save(arguments.output)

    if arguments.save:
        from safetensors.numpy import save_file

        first = len(manifest["schedule"]["sigmas"]) - len(latents)
        named = {f"latent{step}": latent for step, latent in enumerate(latents, first)}
        save_file({"text": texts["text"], "image": image, **named}, arguments.save)


if __name__ == "__main__":
    main()

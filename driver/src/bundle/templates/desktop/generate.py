"""Draws pictures with the ONNX models of this bundle, which `snapc bundle --platform desktop` wrote.

    pip install onnxruntime tokenizers numpy pillow
    python generate.py "a red circle left of a blue square" --seed 7 -o out.png

or, as a module: `Generator().picture("a red circle", seed=7)` gives a PIL image.
"""

import argparse
import ctypes
import json
import os
import platform
import sys
from pathlib import Path

import numpy
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer


class Noise:
    """The numbers of `torch.Generator().manual_seed(seed)` on the CPU, bit for bit, as `snapc run --seed` draws them."""

    def __init__(self, seed):
        # The seeding of MT19937 by one number, which numpy has too; its first draw makes the next 624 words.
        self.twister = numpy.random.MT19937()
        words = [seed & 0xFFFFFFFF]
        for index in range(1, 624):
            words.append((1812433253 * (words[-1] ^ (words[-1] >> 30)) + index) & 0xFFFFFFFF)
        self.twister.state = {"bit_generator": "MT19937", "state": {"key": numpy.array(words, numpy.uint32), "pos": 624}}

    def normals(self, shape):
        """`torch.randn(shape)`, for 16 numbers or more."""
        count = int(numpy.prod(shape))
        out = self.uniforms(count)
        whole = count - count % 16
        out[:whole] = transform(out[:whole])
        if whole < count:
            # The last 16 are drawn anew, over the end of the last whole group.
            out[-16:] = transform(self.uniforms(16))
        return out.reshape(shape)

    def uniforms(self, count):
        words = self.twister.random_raw(count) & 0xFFFFFF
        return words.astype(numpy.float32) / numpy.float32(1 << 24)


def fused(a, b, c):
    """a * b + c, rounded once: exact in double, there rounded to odd, so that the second rounding is as the only one."""
    product = numpy.float64(a) * numpy.float64(b)
    c = numpy.float64(c)
    total = numpy.asarray(product + c)
    part = total - product
    error = (product - (total - part)) + (c - part)
    bits = total.view(numpy.int64)
    step = numpy.where((error > 0) == (total > 0), 1, -1)
    odd = numpy.where((error != 0) & (bits & 1 == 0), bits + step, bits)
    return odd.view(numpy.float64).astype(numpy.float32)


def polynomial(terms, x):
    result = numpy.float32(terms[0])
    for term in terms[1:]:
        result = fused(result, x, numpy.float32(term))
    return result


def transform(uniforms):
    """Box and Muller's transform by groups of 16: eight radii, eight angles; the Cephes library's polynomials, fused as PyTorch does."""
    f = numpy.float32
    first, second = uniforms.reshape(-1, 2, 8).transpose(1, 0, 2)
    x = f(1) - first
    bits = x.view(numpy.int32)
    exponent = (bits >> 23).astype(f) - f(126)
    mantissa = ((bits & 0x007FFFFF) | 0x3F000000).view(f)
    low = mantissa < f(0.70710677)
    exponent, m = exponent - low.astype(f), numpy.where(low, mantissa - f(1) + mantissa, mantissa - f(1))
    terms = [7.0376836e-2, -1.151461e-1, 1.16769984e-1, -1.2420141e-1, 1.4249323e-1, -1.6668058e-1]
    terms += [2.0000714e-1, -2.4999994e-1, 3.333333e-1]
    y = fused(polynomial(terms, m) * m, m * m, exponent * f(-2.1219444e-4))
    logarithm = fused(exponent, f(0.6933594), m + fused(m * m, f(-0.5), y))
    radius = numpy.sqrt(f(-2) * logarithm)

    angle = f(6.2831855) * second
    octant = ((angle * f(1.2732395)).astype(numpy.int32) + 1) & ~1
    for quarter in (0.78515625, 2.4187565e-4, 3.774895e-8):
        angle = fused(octant.astype(f), f(-quarter), angle)
    z = angle * angle
    sine = fused(polynomial([-1.9515296e-4, 8.332161e-3, -1.6666655e-1], z) * z, angle, angle)
    cosine = fused(polynomial([2.4433157e-5, -1.3887316e-3, 4.1666646e-2], z) * z, z, f(-0.5) * z) + f(1)
    swap = octant & 2 != 0
    sine, cosine = numpy.where(swap, cosine, sine), numpy.where(swap, sine, cosine)
    sine, cosine = numpy.where(octant & 4 != 0, -sine, sine), numpy.where((octant + 2) & 4 != 0, -cosine, cosine)
    return numpy.stack([radius * cosine + f(0), radius * sine + f(0)], axis=1).reshape(-1)


def device_memory():
    """Bytes of this machine's memory."""
    if sys.platform != "win32":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    kilobytes = ctypes.c_ulonglong()
    ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))
    return kilobytes.value << 10


def pick(devices, memory=None, chip=None):
    """The subnet of the first class of devices that this one, or the one described, has the memory and the chip for."""
    memory = device_memory() if memory is None else memory
    chip = platform.machine() if chip is None else chip
    # A system keeps some memory for itself: what reports 7/8 of it is a device of that size.
    fits = (row for row in devices if memory >= row["memory"] // 8 * 7 and (not row["chips"] or chip in row["chips"]))
    return next(fits)["subnet"]


class Generator:
    """Prompt to picture. One part is in memory at a time: the text encoder, then the transformer, then the decoder."""

    def __init__(self, models=None, subnet=None, memory=None, chip=None):
        """`models` is a folder with `subnets`, and `shared` if it is not this bundle's; the one of this file where nothing is said. Without
        `subnet` the table of devices in bundle.json picks it, by this machine or by the `memory` (bytes) and `chip` that are named."""
        own = Path(__file__).parent
        models = Path(models or own)
        shared = models / "shared" if (models / "shared").is_dir() else own / "shared"
        if subnet is None:
            bundle = json.loads((own / "bundle.json").read_text(encoding="utf-8"))
            subnet = pick(bundle["devices"], memory, chip)
        self.subnet = subnet
        folder = models / "subnets" / subnet
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.folders = {"text_encoder": shared, "transformer": folder, "vae_decoder": shared}
        self.parts = {entry["part"]: entry for entry in self.manifest["parts"]}

        tokens, tokenizer = self.manifest["tokenizer"]["tokens"], shared / "tokenizer"
        self.tokenizer = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        config = tokenizer / "tokenizer_config.json"
        config = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
        pad = config.get("pad_token") or config.get("eos_token") or "<|endoftext|>"
        pad = pad if isinstance(pad, str) else pad["content"]
        self.tokenizer.enable_truncation(tokens)
        self.tokenizer.enable_padding(length=tokens, pad_token=pad, pad_id=self.tokenizer.token_to_id(pad))

    def open(self, part):
        """A function from named arrays to the part's output; what it holds goes with it."""
        options = onnxruntime.SessionOptions()
        # From the second run on a memory pattern would keep a second arena beside the first.
        options.enable_mem_pattern = False
        path = self.folders[part] / self.parts[part]["artifact"] / "model.onnx"
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda **inputs: session.run(None, inputs)[0]

    def texts(self, prompt, negative_prompt):
        """What the transformer takes of the prompts."""
        guided = self.manifest["options"]["guidance"] is not None
        encoder, texts = self.open("text_encoder"), {}
        for prefix, text in [("", prompt)] + [("negative_", negative_prompt)] * guided:
            encoded = self.tokenizer.encode(text)
            texts[prefix + "text"] = encoder(input_ids=numpy.array([encoded.ids], numpy.int32))
            texts[prefix + "text_mask"] = numpy.array([encoded.attention_mask], numpy.float32)
        return texts

    def latent(self, texts, seed, progress):
        """From noise to the last latent."""
        transformer, noise = self.open("transformer"), Noise(seed)
        inputs = self.parts["transformer"]["inputs"]
        shape = next(port["shape"] for port in inputs if port["name"] in ("latent", "noise"))
        steps = len(self.manifest["schedule"]["sigmas"]) - 1
        stochastic = self.manifest["schedule"]["rule"] == "stochastic"
        latent = noise.normals(shape)
        if self.manifest["options"]["bake"] == "unrolled":
            # `noise1` is mixed in after the first step, and so on; after the last one there is none.
            fresh = {f"noise{step}": noise.normals(shape) for step in range(1, steps if stochastic else 1)}
            latent = transformer(noise=latent, **fresh, **texts)
            progress(steps, steps)
            return latent
        for step in range(steps):
            fresh = {}
            if stochastic:
                fresh["noise"] = noise.normals(shape) if step + 1 < steps else numpy.zeros(shape, numpy.float32)
            latent = transformer(latent=latent, step=numpy.array([step], numpy.int32), **fresh, **texts)
            progress(step + 1, steps)
        return latent

    def picture(self, prompt, negative_prompt="", seed=0, progress=lambda done, steps: None):
        """A PIL image. A prompt that is too long is cut; `progress` is told the steps that are done, of how many."""
        latent = self.latent(self.texts(prompt, negative_prompt), seed, progress)
        image = self.open("vae_decoder")(latent=latent)
        # RGB in [-1, 1], [1, 3, height, width].
        pixels = ((image[0].transpose(1, 2, 0).clip(-1, 1) + 1) * 127.5).round().astype(numpy.uint8)
        return Image.fromarray(pixels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", help="what the picture shows")
    parser.add_argument("--negative-prompt", default="", help="what it shall not show: for bundles made with --guidance")
    parser.add_argument("--seed", type=int, default=0, help="another number, another picture; as `snapc run --seed`")
    parser.add_argument("--subnet", help="the network, instead of the one for this device")
    parser.add_argument("--memory", type=int, metavar="BYTES", help="pick the network for a device of that memory")
    parser.add_argument("--chip", help="pick the network for a device of that chip")
    parser.add_argument("--models", type=Path, metavar="DIR", help="a folder with `subnets`, where they are not in this bundle")
    parser.add_argument("-o", "--output", default="out.png", metavar="PNG", help="where the picture goes (out.png)")
    arguments = parser.parse_args()
    generator = Generator(arguments.models, arguments.subnet, arguments.memory, arguments.chip)
    generator.picture(arguments.prompt, arguments.negative_prompt, arguments.seed).save(arguments.output)
    print(f"{arguments.output}: subnet {generator.subnet}")


if __name__ == "__main__":
    main()

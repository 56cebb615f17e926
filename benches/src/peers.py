"""Rounds tensors of a checkpoint as another quantizer does, and writes what they decode to.

    python peers.py QUANTIZER TENSORS.json FROM.safetensors TO.safetensors

TENSORS.json is a list of [name, encoding], as snapc stores them: the bits are those of the encoding. Each quantizer's own code is called on the f16
numbers of the checkpoint; convolutions, which snapc turns into products, are matrices of output channels by all else. All other tensors
are copied. Prints the bits of a rounded weight, scales (f16), offsets and tables included.
"""

import json
import re
import sys

import numpy
from safetensors.numpy import load_file, save_file

BLOCK = 32


def coremltools_linear(weight, bits, block):
    """What linear_quantize_weights does: linear_symmetric, per channel or per block of inputs."""
    from coremltools.optimize.coreml._quantization_passes import linear_quantize_weights as quantizer

    params = quantizer.blockwise_compress(weight, bits, "LINEAR_SYMMETRIC", True, [1, block])
    return quantizer.decompress(params), bits + 16 * params.scale.size / weight.size


def coremltools_palette(weight, bits):
    """What palettize_weights does: mode kmeans, per tensor."""
    from coremltools.optimize._utils import lut_to_dense
    from coremltools.optimize.coreml._quantization_passes import palettize_weights as quantizer

    params = quantizer.blockwise_compress(weight, "KMEANS", bits, [0] * weight.ndim)
    return lut_to_dense(params.indices, params.lut), bits + 16 * params.lut.size / weight.size


def onnxruntime_blocks(weight, symmetric):
    """What MatMulNBitsQuantizer does with its default algorithm: 4 bits, blocks of 32 inputs."""
    from onnxruntime.quantization import matmul_nbits_quantizer as ort

    config = ort.DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=symmetric, bits=4)
    transposed = numpy.ascontiguousarray(weight.T)
    packed, scales, zeros = ort.DefaultWeightOnlyQuantizer(config).qbits_block_quant(transposed)
    nibbles = lambda bytes: numpy.stack([bytes & 15, bytes >> 4], -1).reshape(*bytes.shape[:-1], -1).astype(numpy.float32)
    offsets = 8 if symmetric else nibbles(zeros)[:, : scales.shape[1], None]
    dense = (nibbles(packed) - offsets) * scales[..., None].astype(numpy.float32)
    return dense.reshape(weight.shape), 4 + (16 if symmetric else 20) / BLOCK


def onnxruntime_k_quant(weight):
    """What MatMulNBitsQuantizer does with KQuantWeightOnlyQuantConfig: 4 bits, blocks of 32 inputs."""
    from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor_k_quant_cpu

    blocks = weight.astype(numpy.float32).reshape(-1, BLOCK)
    codes, scales, zeros = quant_tensor_k_quant_cpu(blocks, num_bits=4, group_size=BLOCK)
    dense = (codes.astype(numpy.float32) - zeros.astype(numpy.float32)) * scales
    return dense.reshape(weight.shape), 4 + 20 / BLOCK


def onnxruntime_int8(weight, per_channel):
    """What quantize_dynamic does to weights: int8, symmetric, a scale a tensor (its default) or an output channel."""
    from onnxruntime.quantization.quant_utils import QuantType, quantize_data

    def rounded(part):
        found = quantize_data(part.astype(numpy.float32), QuantType.QInt8.tensor_type, True)
        zero, scale, codes = found[-3:]
        return (codes.astype(numpy.float32) - float(zero)) * float(scale)

    if not per_channel:
        return rounded(weight), 8 + 16 / weight.size
    return numpy.stack([rounded(row) for row in weight]), 8 + 16 / weight.shape[1]


def rounding(quantizer, encoding):
    bits = int(re.match(r"(?:int|palette)(\d)", encoding).group(1))
    if quantizer == "coremltools-palette":
        return lambda weight: coremltools_palette(weight, bits)
    if quantizer == "onnxruntime-int8":
        return lambda weight: onnxruntime_int8(weight, False)
    if quantizer == "onnxruntime-int8-channel":
        return lambda weight: onnxruntime_int8(weight, True)
    if bits == 8:
        return lambda weight: coremltools_linear(weight, 8, 0)
    return {
        "coremltools-int4": lambda weight: coremltools_linear(weight, 4, BLOCK),
        "onnxruntime-int4": lambda weight: onnxruntime_blocks(weight, True),
        "onnxruntime-int4-asymmetric": lambda weight: onnxruntime_blocks(weight, False),
        "onnxruntime-int4-k_quant": onnxruntime_k_quant,
    }[quantizer]


def main():
    quantizer, listed, source, target = sys.argv[1:]
    tensors = load_file(source)
    bits, count = 0, 0
    with open(listed) as file:
        names = json.load(file)
    for name, encoding in names:
        weight = tensors[name]
        dense, each = rounding(quantizer, encoding)(weight.reshape(len(weight), -1))
        tensors[name] = numpy.ascontiguousarray(dense, dtype=numpy.float32).reshape(weight.shape)
        error = numpy.linalg.norm(tensors[name] - weight) / numpy.linalg.norm(weight.astype(numpy.float32))
        if not error < 0.5:
            raise SystemExit(f"{name}: {quantizer} is {error} off")
        bits, count = bits + each * weight.size, count + weight.size
    save_file(tensors, target)
    print(bits / count)


main()

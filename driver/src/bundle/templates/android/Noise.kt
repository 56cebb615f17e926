// Written by snapc. The numbers that PyTorch's generator on the CPU draws, bit for bit, as `snapc run --seed` does.
package __PACKAGE__

import kotlin.math.sqrt

/** `torch.Generator().manual_seed(seed)`. */
internal class Noise(seed: Long) {
    private val words = IntArray(624)
    private var next = 624

    init {
        words[0] = seed.toInt()
        for (index in 1 until 624) {
            val last = words[index - 1]
            words[index] = 1_812_433_253 * (last xor (last ushr 30)) + index
        }
    }

    /** `torch.randn(count)`, for 16 numbers or more. */
    fun normals(count: Int): FloatArray {
        val out = FloatArray(count) { uniform() }
        for (start in 0..count - 16 step 16) transform(out, start)
        if (count % 16 != 0) {
            // The last 16 are drawn anew, over the end of the last whole group.
            for (index in count - 16 until count) out[index] = uniform()
            transform(out, count - 16)
        }
        return out
    }

    /** 32 bits of the Mersenne twister MT19937. */
    private fun bits(): Int {
        if (next == 624) {
            for (index in 0 until 624) {
                val pair = (words[index] and HIGH) or (words[(index + 1) % 624] and HIGH.inv())
                val odd = if (pair and 1 == 1) 0x9908b0df.toInt() else 0
                words[index] = words[(index + 397) % 624] xor (pair ushr 1) xor odd
            }
            next = 0
        }
        var x = words[next]
        next += 1
        x = x xor (x ushr 11)
        x = x xor ((x shl 7) and 0x9d2c5680.toInt())
        x = x xor ((x shl 15) and 0xefc60000.toInt())
        return x xor (x ushr 18)
    }

    /** In [0, 1), by 24 bits. */
    private fun uniform(): Float = (bits() and 0x00ffffff) / 16_777_216f

    /** Box and Muller's transform of 16 uniforms: eight give the radii, eight the angles. */
    private fun transform(numbers: FloatArray, start: Int) {
        for (index in start until start + 8) {
            val radius = sqrt(-2f * logarithm(1f - numbers[index]))
            val (sine, cosine) = circle(6.2831855f * numbers[index + 8])
            numbers[index] = radius * cosine + 0f
            numbers[index + 8] = radius * sine + 0f
        }
    }

    // The Cephes library's polynomials, fused as PyTorch fuses them.

    /**
     * a * b + c, rounded once. `Math.fma` is Android 13's: here the product is exact in double, and the sum is rounded to odd there, so
     * that rounding it again to float is as rounding once (Boldo and Melquiond, 2008).
     */
    private fun fused(a: Float, b: Float, c: Float): Float {
        val product = a.toDouble() * b.toDouble()
        val sum = product + c.toDouble()
        val part = sum - product
        val error = (product - (sum - part)) + (c.toDouble() - part)
        val bits = sum.toRawBits()
        if (error == 0.0 || bits and 1L == 1L) return sum.toFloat()
        return Double.fromBits(if ((error > 0) == (sum > 0)) bits + 1 else bits - 1).toFloat()
    }

    private fun polynomial(terms: FloatArray, x: Float): Float {
        var sum = terms[0]
        for (index in 1 until terms.size) sum = fused(sum, x, terms[index])
        return sum
    }

    /** The natural logarithm of a number in (0, 1]. */
    private fun logarithm(x: Float): Float {
        var exponent = (x.toRawBits() ushr 23) - 126f
        val mantissa = Float.fromBits((x.toRawBits() and 0x007fffff) or 0x3f000000)
        var m = mantissa - 1f
        if (mantissa < 0.70710677f) {
            exponent -= 1f
            m += mantissa
        }
        val square = m * m
        val first = fused(polynomial(LOGARITHM, m) * m, square, exponent * -2.1219444e-4f)
        val second = fused(square, -0.5f, first)
        return fused(exponent, 0.6933594f, m + second)
    }

    /** The sine and the cosine of an angle in [0, 2 pi]. */
    private fun circle(angle: Float): Pair<Float, Float> {
        val octant = ((angle * 1.2732395f).toInt() + 1) and 1.inv()
        var x = angle
        for (quarter in QUARTERS) x = fused(octant.toFloat(), -quarter, x)
        val z = x * x
        val sine = fused(polynomial(SINE, z) * z, x, x)
        val cosine = fused(polynomial(COSINE, z) * z, z, -0.5f * z) + 1f
        val first = if (octant and 2 == 0) sine else cosine
        val second = if (octant and 2 == 0) cosine else sine
        return Pair(if (octant and 4 == 0) first else -first, if ((octant + 2) and 4 == 0) second else -second)
    }

    private companion object {
        const val HIGH = Int.MIN_VALUE
        val LOGARITHM = floatArrayOf(
            7.0376836e-2f, -1.151461e-1f, 1.16769984e-1f, -1.2420141e-1f, 1.4249323e-1f, -1.6668058e-1f,
            2.0000714e-1f, -2.4999994e-1f, 3.333333e-1f,
        )
        val QUARTERS = floatArrayOf(0.78515625f, 2.4187565e-4f, 3.774895e-8f)
        val SINE = floatArrayOf(-1.9515296e-4f, 8.332161e-3f, -1.6666655e-1f)
        val COSINE = floatArrayOf(2.4433157e-5f, -1.3887316e-3f, 4.1666646e-2f)
    }
}

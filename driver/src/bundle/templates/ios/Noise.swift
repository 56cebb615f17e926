// Written by snapc. The numbers that PyTorch's generator on the CPU draws, bit for bit, as `snapc run --seed` does.

/// `torch.Generator().manual_seed(seed)`.
struct Noise {
    private var words: [UInt32]
    private var next = 624

    init(seed: UInt64) {
        var last = UInt32(truncatingIfNeeded: seed)
        words = [last]
        for index in 1..<624 {
            last = 1_812_433_253 &* (last ^ (last >> 30)) &+ UInt32(index)
            words.append(last)
        }
    }

    /// `torch.randn(count)`, for 16 numbers or more.
    mutating func normals(_ count: Int) -> [Float] {
        var out: [Float] = []
        out.reserveCapacity(count)
        for _ in 0..<count { out.append(uniform()) }
        for start in stride(from: 0, through: count - 16, by: 16) { Noise.transform(&out, start) }
        if count % 16 != 0 {
            // The last 16 are drawn anew, over the end of the last whole group.
            for index in (count - 16)..<count { out[index] = uniform() }
            Noise.transform(&out, count - 16)
        }
        return out
    }

    /// 32 bits of the Mersenne twister MT19937.
    private mutating func bits() -> UInt32 {
        if next == 624 {
            for index in 0..<624 {
                let pair = (words[index] & 0x8000_0000) | (words[(index + 1) % 624] & 0x7fff_ffff)
                let odd: UInt32 = pair & 1 == 1 ? 0x9908_b0df : 0
                words[index] = words[(index + 397) % 624] ^ (pair >> 1) ^ odd
            }
            next = 0
        }
        var x = words[next]
        next += 1
        x ^= x >> 11
        x ^= (x << 7) & 0x9d2c_5680
        x ^= (x << 15) & 0xefc6_0000
        return x ^ (x >> 18)
    }

    /// In [0, 1), by 24 bits.
    private mutating func uniform() -> Float {
        Float(bits() & 0x00ff_ffff) / 16_777_216
    }

    /// Box and Muller's transform of 16 uniforms: eight give the radii, eight the angles.
    private static func transform(_ numbers: inout [Float], _ start: Int) {
        for index in start..<(start + 8) {
            let radius = (-2 * logarithm(1 - numbers[index])).squareRoot()
            let (sine, cosine) = circle(6.2831855 * numbers[index + 8])
            numbers[index] = radius * cosine + 0
            numbers[index + 8] = radius * sine + 0
        }
    }

    // The Cephes library's polynomials, fused as PyTorch fuses them.

    /// a * b + c, rounded once.
    private static func fused(_ a: Float, _ b: Float, _ c: Float) -> Float {
        c.addingProduct(a, b)
    }

    private static func polynomial(_ terms: [Float], _ x: Float) -> Float {
        terms.dropFirst().reduce(terms[0]) { fused($0, x, $1) }
    }

    private static let logarithmTerms: [Float] = [
        7.0376836e-2, -1.151461e-1, 1.16769984e-1, -1.2420141e-1, 1.4249323e-1, -1.6668058e-1, 2.0000714e-1,
        -2.4999994e-1, 3.333333e-1,
    ]

    /// The natural logarithm of a number in (0, 1].
    private static func logarithm(_ x: Float) -> Float {
        var exponent = Float(x.bitPattern >> 23) - 126
        let mantissa = Float(bitPattern: (x.bitPattern & 0x007f_ffff) | 0x3f00_0000)
        var m = mantissa - 1
        if mantissa < 0.70710677 {
            exponent -= 1
            m += mantissa
        }
        let square = m * m
        let first = fused(polynomial(logarithmTerms, m) * m, square, exponent * -2.1219444e-4)
        let second = fused(square, -0.5, first)
        return fused(exponent, 0.6933594, m + second)
    }

    /// The sine and the cosine of an angle in [0, 2 pi].
    private static func circle(_ angle: Float) -> (Float, Float) {
        let octant = (UInt32(angle * 1.2732395) + 1) & ~1
        let quarters: [Float] = [0.78515625, 2.4187565e-4, 3.774895e-8]
        let x = quarters.reduce(angle) { fused(Float(octant), -$1, $0) }
        let z = x * x
        let sine = fused(polynomial([-1.9515296e-4, 8.332161e-3, -1.6666655e-1], z) * z, x, x)
        let cosine = fused(polynomial([2.4433157e-5, -1.3887316e-3, 4.1666646e-2], z) * z, z, -0.5 * z) + 1
        let (first, second) = octant & 2 == 0 ? (sine, cosine) : (cosine, sine)
        return (octant & 4 == 0 ? first : -first, (octant &+ 2) & 4 == 0 ? second : -second)
    }
}
